"""Predict genres from plots by scikit-learn: tf-idf and one logistic regression for each genre, on three samples of train.

python tf_idf.py movies predictions.csv

The folder is MM-IMDb's layout: split.json, and dataset/<id>.json with plot and genres. The output has a row for each movie of
val and test and each sample: id, seed, and prob/<genre>. It needs no gmu_lightning.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MultiLabelBinarizer

folder, output = map(Path, sys.argv[1:])
ids = json.loads((folder / "split.json").read_text(encoding="utf-8"))
movies = {
    movie: json.loads((folder / f"dataset/{movie}.json").read_text(encoding="utf-8")) for split in ids.values() for movie in split
}
plots = {movie: max(found["plot"], key=len) for movie, found in movies.items()}

tf_idf = TfidfVectorizer(sublinear_tf=True, min_df=2)
inputs = tf_idf.fit_transform(plots[movie] for movie in ids["train"])
binarizer = MultiLabelBinarizer()
labels = binarizer.fit_transform(movies[movie]["genres"] for movie in ids["train"])
scored = [*ids["dev"], *ids["test"]]
tables = []
for seed in (1, 2, 3):
    rows = np.random.default_rng(seed).integers(len(ids["train"]), size=len(ids["train"]))  # a bootstrap sample
    model = OneVsRestClassifier(LogisticRegression(C=10, class_weight="balanced")).fit(inputs[rows], labels[rows])
    probabilities = model.predict_proba(tf_idf.transform(plots[movie] for movie in scored))
    table = pd.DataFrame(probabilities, columns=[f"prob/{genre}" for genre in binarizer.classes_])
    table.insert(0, "id", scored)
    table.insert(1, "seed", seed)
    tables.append(table)
pd.concat(tables).to_csv(output, index=False)
