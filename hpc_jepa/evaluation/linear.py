"""Linear probe: multinomial logistic regression on pooled features."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hpc_jepa.config.benchmark import LinearProbeConfig
from hpc_jepa.evaluation.features import FrozenFeatures


def fit_and_predict(train: FrozenFeatures, test: FrozenFeatures, config: LinearProbeConfig) -> NDArray[np.int64]:
    """[1, n]: the class of each test clip.

    Minimises mean cross-entropy + l2/2 |W|^2 on standardised features with L-BFGS; scikit-learn weighs the sum of the
    loss instead, hence C = 1 / (n l2). The problem is convex: there is nothing random, and one fit is enough.
    """
    regression = LogisticRegression(C=1 / (len(train) * config.l2), max_iter=config.max_iterations)
    probe = make_pipeline(StandardScaler(), regression)
    probe.fit(train.pooled(config.pooling), train.labels)
    return np.asarray(probe.predict(test.pooled(config.pooling)), dtype=np.int64)[None]
