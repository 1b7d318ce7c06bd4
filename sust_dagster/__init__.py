"""sust-AI-naible: cloud carbon optimisation as a closed control loop, with proof."""

__version__ = "0.1.0"
