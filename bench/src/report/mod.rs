//! What was found out, in the forms that people and programs read.

pub mod baseline;
pub mod csv;
pub mod fill;
pub mod json;
pub mod line;
pub mod markdown;
pub mod svg;
pub mod table;
