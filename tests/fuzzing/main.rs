//! The entries of the fuzz targets, on any toolchain: every seed, and some thousand bytes that were made of seeds or of
//! nothing. Fuzzers run the same functions for longer: see CONTRIBUTING.md.

mod entries;
mod seeds;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestError, TestRunner};

/// Cases for each entry.
const CASES: u32 = 2_000;
/// Bytes of the longest case that is made of nothing.
const MAX_NEW_BYTES: usize = 600;

/// What is done to a seed.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    /// Bytes of the same seed, or of another, go to another place.
    Splice(Index, Index, Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (index(), 0u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (index(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (index(), index()).prop_map(|(from, to)| Edit::Remove(from, to)),
        (index(), index(), index(), index()).prop_map(|(at, seed, from, to)| Edit::Splice(at, seed, from, to)),
    ]
}

fn ends(one: Index, other: Index, len: usize) -> (usize, usize) {
    let (one, other) = (one.index(len + 1), other.index(len + 1));
    (one.min(other), one.max(other))
}

fn apply(edit: &Edit, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    match edit {
        Edit::Set(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Edit::Flip(at, bit) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Edit::Insert(at, new) => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, new.iter().copied());
        }
        Edit::Remove(from, to) => {
            let (from, to) = ends(*from, *to, bytes.len());
            bytes.drain(from..to);
        }
        Edit::Splice(at, seed, from, to) => {
            let seed = &seeds[seed.index(seeds.len())];
            let (from, to) = ends(*from, *to, seed.len());
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, seed[from..to].iter().copied());
        }
        Edit::Set(..) | Edit::Flip(..) => {}
    }
}

fn seeds_of(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a seed").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect()
}

fn exercise(name: &str) {
    let (_, entry) = entries::ENTRIES.into_iter().find(|(known, _)| *known == name).expect("an entry of this name");
    let seeds = seeds_of(name);
    assert!(!seeds.is_empty(), "fuzz/seeds/{name} has seeds");
    seeds.iter().for_each(|seed| entry(seed));

    let new = prop::collection::vec(any::<u8>(), 0..MAX_NEW_BYTES);
    let edited = (any::<Index>(), prop::collection::vec(edit(), 1..6)).prop_map(move |(seed, edits)| {
        let mut bytes = seeds[seed.index(seeds.len())].clone();
        edits.iter().for_each(|edit| apply(edit, &mut bytes, &seeds));
        bytes
    });
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&prop_oneof![1 => new, 3 => edited], |bytes| {
        entry(&bytes);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, bytes)) => {
            panic!("{reason}\nkeep these bytes as a seed in fuzz/seeds/{name}: {}", bytes.escape_ascii());
        }
        Err(error) => panic!("{error}"),
    }
}

macro_rules! sound {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                exercise(stringify!($name));
            }
        )*

        #[test]
        fn every_entry_is_exercised_and_is_a_fuzz_target() {
            assert_eq!(entries::ENTRIES.map(|(name, _)| name).as_slice(), [$(stringify!($name)),*]);
            for (name, _) in entries::ENTRIES {
                let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
                assert!(target.is_file(), "{} is missing", target.display());
            }
        }
    };
}

sound!(batch choreographies events files frame records replica store topics values);
