"""Campaigns: many walkers that share one posterior, one dataset and one calibration; labels are made beside them."""
