"""What holds for all tests, and for the examples in docstrings."""

pytest_plugins = ["typechecker"]
