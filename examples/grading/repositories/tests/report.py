"""Prints one line a test of a JUnit XML file and a summary; exits with 1 unless all have passed."""

import sys
from pathlib import Path
from xml.etree import ElementTree


def outcome(test: ElementTree.Element) -> str:
    """`PASSED`, or the name of what JUnit noted instead."""
    for word in ("failure", "error", "skipped"):
        if test.find(word) is not None:
            return word.upper()
    return "PASSED"


def main(results: Path) -> int:
    """The exit code."""
    if not results.exists():
        print("no results: the tests did not run")
        return 1
    tests = list(ElementTree.parse(results).iter("testcase"))
    for test in tests:
        print(f"{outcome(test):<8}{test.get('name')}")
    passed = sum(outcome(test) == "PASSED" for test in tests)
    print(f"{passed} of {len(tests)} tests passed")
    return 0 if tests and passed == len(tests) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
