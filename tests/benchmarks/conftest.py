import sys

from sparselora.paths import PACKAGE

# The scripts are no package: they find each other as `python benchmarks/NAME.py` does.
sys.path.append(str(PACKAGE.parent / "benchmarks"))
