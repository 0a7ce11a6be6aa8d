//! The demo's folder. It goes with the demo, or, where a signal ended the process, with the next one.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

const PREFIX: &str = "quota-proxy-demo-";
/// Locked for as long as the folder's demo runs; the system lets go of it however that ends.
const LOCK: &str = "lock";

/// A folder that goes with its owner.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// A new folder in `parent`, for this user alone. Folders of demos that are gone are deleted.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let name = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
        let path = parent.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.lock()?;
        Ok(Scratch { path, _lock: lock })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What remains is in the system's folder for such things.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// Deletes what dead demos left behind, as far as it may be deleted.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Neither a link nor a pipe that another user laid out is followed or waited for.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours && is_folder && is_dead(&entry.path()) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

fn is_dead(folder: &Path) -> bool {
    let lock = folder.join(LOCK);
    let is_file = std::fs::symlink_metadata(&lock).is_ok_and(|found| found.is_file());
    is_file && File::open(lock).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_demo_s_folder_goes_and_a_living_one_s_stays() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new(parent.path()).unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        let foreign = parent.path().join("other");
        for folder in [&dead, &foreign] {
            std::fs::create_dir(folder).unwrap();
            File::create(folder.join(LOCK)).unwrap();
        }
        let next = Scratch::new(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(foreign.exists() && living.path.exists());
        drop(next);
        drop(living);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
