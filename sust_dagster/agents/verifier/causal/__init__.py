"""What factors cannot tell: whether a moved run uses more or less than it would have, from runs that stayed.

Belongs here: the hold-out arm, difference-in-differences, the usage ratio, synthetic control and synthetic
difference-in-differences. Does not belong here: carbon, factors, intervals of savings, any I/O or clock.
"""
