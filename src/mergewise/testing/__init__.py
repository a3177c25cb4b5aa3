"""What every merge method must do, as checks that need no test framework: ``check_method("capped")``."""

from mergewise.testing.contract import check_method

__all__ = ["check_method"]
