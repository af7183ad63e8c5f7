"""The sparse core: estimators, selection, the sparse FFN, and the patch. Of use without Hydra."""
