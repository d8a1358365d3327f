"""humpback: self-alignment with instruction backtranslation (arXiv 2308.06259) as one resumable, audited run."""

__version__ = "0.1.0"
__all__ = ["__version__"]
