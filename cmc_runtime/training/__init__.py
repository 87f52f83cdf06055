"""Training of a delta model beside a frozen model; internal."""
