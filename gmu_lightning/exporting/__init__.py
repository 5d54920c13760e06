"""Export a finished run as a folder that predicts anywhere: weights, preprocessing, thresholds, a probe and a model card."""
