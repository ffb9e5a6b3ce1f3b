"""The facts about every version of the lab, and every score that it published."""
