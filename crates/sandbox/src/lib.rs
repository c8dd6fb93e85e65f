//! Real database servers in a directory of their own: for trying Pointsman out and for its tests.
