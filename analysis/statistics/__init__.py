"""Statistics that know nothing of the database: shares, intervals, resamples, coefficients."""
