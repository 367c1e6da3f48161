def median(numbers):
    if not numbers:
        raise ValueError("nothing has no median")
    return sorted(numbers)[len(numbers) // 2]
