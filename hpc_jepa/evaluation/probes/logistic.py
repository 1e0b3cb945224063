"""Logistic probe: multinomial logistic regression on pooled features, fitted to convergence."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hpc_jepa.evaluation.frozen_features import FrozenFeatures


def fit_logistic_regression(train: FrozenFeatures, l2: float, max_iterations: int) -> Pipeline:
    """A fitted scikit-learn classifier for matrices [n, N * D].

    Minimises mean cross-entropy + l2/2 |W|^2 on standardised features with L-BFGS. scikit-learn weights the summed
    loss instead, hence C = 1 / (n l2). The problem is convex and deterministic, so one fit is enough.
    """
    regression = LogisticRegression(C=1 / (len(train) * l2), max_iter=max_iterations)
    # Thousands of small products: with more threads most time is spent on synchronisation.
    with threadpool_limits(1):
        return make_pipeline(StandardScaler(), regression).fit(train.flat(), train.labels)
