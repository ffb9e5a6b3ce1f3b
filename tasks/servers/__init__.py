"""The pages' servers as processes: started in the background, found again, and ended."""
