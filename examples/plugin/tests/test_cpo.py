"""Every law that Trivium's own objectives keep."""

from trivium.testing import laws

test_objective = laws("cpo")
