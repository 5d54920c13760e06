"""A page in the browser on which a movie is entered, predicted and explained, and modalities are switched off."""
