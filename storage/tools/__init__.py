"""Operations on whole stores: copy, merge, verify, cards, HDF5, growth."""
