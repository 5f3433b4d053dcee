//! cmo counts
