"""Behavioral tests of trained models (CheckList, Ribeiro et al. 2020): how outputs change with the input."""
