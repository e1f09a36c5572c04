//! Where inputs come from: archives, arrays, images, folders, generated values.

pub(crate) mod images;
pub(crate) mod inputs;
