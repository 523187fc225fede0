//! The declarations that are known here.

use std::collections::{BTreeMap, BTreeSet};

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::choreography::Rank;
use roundelay_protocol::choreography::conformance::{MAX_VERSIONS, Versions};
use roundelay_protocol::event::Item;
use roundelay_protocol::ids::Author;
use roundelay_protocol::topic::Pattern;

use super::error::LookupError;
use super::publication::Publication;
use super::{MAX_CATALOG_BYTES, MAX_CHOREOGRAPHIES};

/// Refused declarations that are told in the log of the process; further ones are counted.
const MAX_TOLD: u64 = 32;

/// What was published of each choreography, in total order.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    known: BTreeMap<String, BTreeMap<Rank, Publication>>,
    bytes: usize,
    refused: u64,
}

impl Catalog {
    /// Takes the declarations in a batch of their topic. Returns the names of which something new was learnt.
    pub(super) fn learn(&mut self, batch: &VerifiedBatch) -> BTreeSet<String> {
        let author = batch.header().author;
        let mut names = BTreeSet::new();
        for (index, (_, item)) in (0_u32..).zip(batch.items()) {
            let Item::Event(event) = item else { continue };
            let at = Rank { stamp: event.hlc, batch: batch.hash(), index };
            let taken = match Publication::read(at, author, &event) {
                None => continue,
                Some(read) => read.and_then(|publication| self.take(publication)),
            };
            match taken {
                Ok(name) => drop(names.insert(name)),
                Err(reason) => self.refuse(event.key.unwrap_or_default(), &reason),
            }
        }
        names
    }

    fn take(&mut self, publication: Publication) -> Result<String, String> {
        let name = publication.declaration.name().to_owned();
        if !self.has_room_for(&name, publication.json.len()) {
            return Err("this node knows as many declarations as it may".to_owned());
        }
        self.bytes += publication.json.len();
        self.known.entry(name.clone()).or_default().insert(publication.at, publication);
        Ok(name)
    }

    fn refuse(&mut self, name: &str, reason: &str) {
        self.refused += 1;
        if self.refused <= MAX_TOLD {
            tracing::warn!(choreography = name, reason, "a declaration that was published is not taken");
        }
    }

    /// Whether one more declaration of a choreography would be taken.
    pub(super) fn has_room_for(&self, name: &str, bytes: usize) -> bool {
        let room = match self.known.get(name) {
            Some(publications) => publications.len() < MAX_VERSIONS,
            None => self.known.len() < MAX_CHOREOGRAPHIES,
        };
        room && self.bytes + bytes <= MAX_CATALOG_BYTES
    }

    /// Declarations that were not taken, for lack of room or as they make no sense.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// The names, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// What was published of a choreography, in total order. The first holds from the beginning, each from its stamp.
    pub(super) fn publications<'a>(&'a self, name: &str) -> impl DoubleEndedIterator<Item = &'a Publication> + use<'a> {
        self.known.get(name).into_iter().flat_map(BTreeMap::values)
    }

    /// The version that holds for instances that begin now.
    pub(super) fn latest(&self, name: &str) -> Option<&Publication> {
        self.publications(name).next_back()
    }

    /// The declaration that somebody means: the latest of those versions that begin so, where they are one.
    pub(super) fn find(&self, name: &str, prefix: &str) -> Result<&Publication, LookupError> {
        let latest = self.latest(name).ok_or_else(|| self.no_choreography(name))?;
        if prefix.is_empty() {
            return Ok(latest);
        }
        let (name, prefix) = (name.to_owned(), prefix.to_owned());
        let begins = |known: &&Publication| known.version().to_string().starts_with(&prefix);
        let found: Vec<_> = self.publications(&name).rev().filter(begins).collect();
        let Some(first) = found.first() else { return Err(LookupError::NoVersion { name, prefix }) };
        let other = found.iter().map(|other| other.version()).find(|other| *other != first.version());
        match other {
            Some(second) => Err(LookupError::SeveralVersions { first: first.version(), second, prefix, name }),
            None => Ok(first),
        }
    }

    pub(super) fn no_choreography(&self, name: &str) -> LookupError {
        LookupError::NoChoreography { name: name.to_owned(), known: self.names().map(str::to_owned).collect() }
    }

    /// All versions by the stamps from which they hold.
    pub(super) fn versions(&self, name: &str) -> Option<Versions> {
        let mut publications = self.publications(name);
        let mut versions = Versions::new(publications.next()?.declaration.clone());
        for later in publications {
            // As many as are kept are as many as there may be, and all are of one name.
            let _ = versions.add(later.declaration.clone(), later.at.stamp);
        }
        Some(versions)
    }

    /// The nodes that alone may add to instances of a choreography, where all its versions name them.
    pub(super) fn nodes(&self, name: &str) -> Option<BTreeSet<Author>> {
        let mut nodes = self.publications(name).map(|known| known.declaration.nodes());
        nodes.try_fold(BTreeSet::new(), |all, nodes| Some(all.into_iter().chain(nodes?).collect()))
    }

    /// Where events of a choreography may be: the topics of all its versions, or everywhere.
    pub(super) fn patterns(&self, name: &str) -> Vec<Pattern> {
        let events = self.publications(name).flat_map(|known| known.declaration.events().values());
        let patterns: Option<BTreeSet<Pattern>> = events.map(|event| event.topic.clone()).collect();
        patterns.map_or_else(|| vec![Pattern::all()], |patterns| patterns.into_iter().collect())
    }
}
