"""The small tier: just what a trained model needs of OpenMMLab's classes."""
