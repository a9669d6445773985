"""Recordings shipped with the package; see LICENSE.md beside them."""
