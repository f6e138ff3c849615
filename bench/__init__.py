"""What modelkeep costs, beside its peers and the physical limit, as ratios of one run. Start: ``make bench``."""
