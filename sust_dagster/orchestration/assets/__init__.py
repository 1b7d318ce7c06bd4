"""The software-defined assets, one module per step of the loop."""
