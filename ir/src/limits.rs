//! Bounds on what a file may ask for.

/// Limits on models read from files. Every reader and importer checks them before it allocates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a file, external data included.
    pub file_bytes: u64,
    /// Nodes of all graphs.
    pub nodes: usize,
    /// Values of all graphs.
    pub values: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Largest extent of an axis.
    pub extent: u64,
    /// Bytes that constants made at load or by folding may take, beyond what the file itself holds.
    pub derived_bytes: u64,
}

impl Limits {
    /// No limit but those of the machine, for models that this program made itself.
    pub const NONE: Limits = Limits {
        file_bytes: u64::MAX,
        nodes: usize::MAX,
        values: usize::MAX,
        name_bytes: usize::MAX,
        extent: u64::MAX,
        derived_bytes: u64::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            file_bytes: 4 << 30,
            nodes: 200_000,
            values: 1_000_000,
            name_bytes: 64 << 10,
            extent: (1 << 31) - 1,
            derived_bytes: 64 << 20,
        }
    }
}
