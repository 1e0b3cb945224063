"""HPC-native trainer for Video-JEPA models and the study of their auxiliary objectives."""

__version__ = "0.1.0"
