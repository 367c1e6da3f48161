"""Sends the work, and waits for the results."""

import sys

from dramatiq import group
from tasks import broker, count_words, remind, summarise


def main(texts: list[str]) -> None:
    """Print the number of words of each text."""
    counts = group([count_words.message(text) for text in texts])
    counts.add_completion_callback(summarise.message(len(texts)))
    counts.run()
    remind.send_with_options(args=(texts[0],), delay=1_500)
    for text, words in zip(texts, counts.get_results(block=True, timeout=30_000), strict=True):
        print(f"{words:3} {text}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["to be or not to be"])
    broker.close()
