"""The checks of `gmu-doctor`: software, the machine, its folders, weights and accounts."""
