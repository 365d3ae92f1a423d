"""From predictions to metrics and reports. No Ray and no model: a predictions file is all that it needs."""
