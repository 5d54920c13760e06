"""Explain predictions: by modality, by piece of a content, and by word. All numbers are differences of the model's own logits."""
