//! Hides values that were written and are not durable yet.

use std::collections::BTreeMap;

use parking_lot::RwLock;

/// The durable values of keys that are being overwritten. Rows and index entries need no masking: they name an arrival
/// number, which tells whether they are durable.
#[derive(Default)]
pub(super) struct Mask(RwLock<BTreeMap<Vec<u8>, Option<sled::IVec>>>);

impl Mask {
    /// Remembers what is durable under keys that are about to be written.
    pub(super) fn cover(&self, db: &sled::Db, keys: impl Iterator<Item = Vec<u8>>) -> sled::Result<()> {
        let mut covered = self.0.write();
        for key in keys {
            if let std::collections::btree_map::Entry::Vacant(vacant) = covered.entry(key) {
                let durable = db.get(vacant.key())?;
                vacant.insert(durable);
            }
        }
        Ok(())
    }

    /// Everything that was written is durable.
    pub(super) fn clear(&self) {
        self.0.write().clear();
    }

    /// The durable value of a key.
    pub(super) fn get(&self, db: &sled::Db, key: &[u8]) -> sled::Result<Option<sled::IVec>> {
        // Held while sled is read, so that no value can slip in between.
        let covered = self.0.read();
        match covered.get(key) {
            Some(durable) => Ok(durable.clone()),
            None => db.get(key),
        }
    }

    /// The durable keys and values with a prefix, ascending.
    pub(super) fn scan(&self, db: &sled::Db, prefix: &[u8]) -> sled::Result<Vec<(sled::IVec, sled::IVec)>> {
        let covered = self.0.read();
        let mut found = db.scan_prefix(prefix).collect::<sled::Result<BTreeMap<_, _>>>()?;
        for (key, durable) in covered.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)) {
            match durable {
                Some(value) => found.insert(key.as_slice().into(), value.clone()),
                None => found.remove(key.as_slice()),
            };
        }
        Ok(found.into_iter().collect())
    }
}
