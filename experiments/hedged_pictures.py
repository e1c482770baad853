"""The pictures of hedged digits."""


def draw(*a):
    pass
