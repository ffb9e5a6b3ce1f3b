"""Studies: experiments that are run alike, by the stages alone, on a machine that may have nothing but a GPU."""
