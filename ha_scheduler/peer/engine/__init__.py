"""The daemon's side of its engine: started, fed, watched, and believed in nothing."""
