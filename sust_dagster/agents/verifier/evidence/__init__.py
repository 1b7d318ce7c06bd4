"""Evidence of a verification: what it was made from, as one document, and the program that makes it again.

Belongs here: the document (``bundle``) and its recomputation (``recompute``, which imports nothing of this product).
Does not belong here: where documents are kept and what commits to them (the orchestration).
"""

from sust_dagster.agents.verifier.evidence.bundle import BUNDLE_FORMAT, Bundle, Record, bundles
from sust_dagster.agents.verifier.evidence.comparison import COMPARISONS, Compared, comparisons

__all__ = ["BUNDLE_FORMAT", "COMPARISONS", "Bundle", "Compared", "Record", "bundles", "comparisons"]
