"""Everything is in pyproject.toml; the two native modules will be declared here, and build without torch."""

from setuptools import setup

setup()
