"""Figures that are worked out by SciPy, for tests of more than one module."""
import math

from scipy import stats


def corrected_p(differences, ratio: float) -> float:
    """The p-value of the corrected resampled t-test: test videos over training videos enlarge the variance."""
    plain, n = stats.ttest_1samp(differences, 0), len(differences)
    shrunk = plain.statistic*math.sqrt((1/n)/(1/n + ratio))
    return float(2*stats.t.sf(abs(shrunk), n - 1))
