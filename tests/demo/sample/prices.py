"""Prices, in cents."""


def total(basket):
    """The sum of a basket of (name, count, price)."""
    if any(count < 0 or price < 0 for _, count, price in basket):
        raise ValueError("a basket holds no negative numbers")
    return sum(count * price for _, count, price in basket)
