//! A disk of its own for a node: a file mounted as ext4 with a journal, whose power can be cut and which can be filled.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::needs::Need;

/// What a test that uses one needs.
pub(crate) const NEEDS: [Need; 2] = [Need::LoopDevices, Need::Program("perl")];

/// Ends the file system at once: nothing reaches the device any more, the journal neither (EXT4_IOC_SHUTDOWN with
/// EXT4_GOING_FLAGS_NOLOGFLUSH).
const CUT: &str =
    r#"open(D, "<", $ARGV[0]) or die "$!"; my $flag = pack("L", 2); ioctl(D, 0x8004587d, $flag) or die "$!";"#;

/// A mounted disk. Dropping it unmounts it.
pub(crate) struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

impl LoopDisk {
    /// Makes a disk of so many MiB, and mounts it as the folder `mount`.
    #[track_caller]
    pub(crate) fn new(mount: &Path, size_mib: u64) -> Self {
        let disk = Self { image: mount.with_extension("disk"), mount: mount.to_owned() };
        fs::create_dir_all(mount).expect("a folder to mount it on");
        let file = fs::File::create(&disk.image).expect("the disk's file");
        file.set_len(size_mib << 20).expect("a sparse file");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&disk.image));
        disk.mount();
        disk
    }

    #[track_caller]
    pub(crate) fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.mount]));
    }

    /// Whoever had files open there must be gone.
    #[track_caller]
    pub(crate) fn unmount(&self) {
        // What a process that was killed held is let go a moment later.
        for _ in 0..50 {
            let quietly = Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
            if quietly.expect("umount").success() {
                return;
            }
            sleep(Duration::from_millis(100));
        }
        run(Command::new("umount").arg(&self.mount));
    }

    #[track_caller]
    pub(crate) fn cut_power(&self) {
        run(Command::new("perl").args(["-e", CUT]).arg(&self.mount));
    }

    /// Another program takes all room but so many bytes, of which there have to be more.
    #[track_caller]
    pub(crate) fn fill_but(&self, left_bytes: u64) {
        let free_bytes = self.free_bytes();
        assert!(left_bytes < free_bytes, "only {free_bytes} bytes are free");
        let length = (free_bytes - left_bytes).to_string();
        run(Command::new("fallocate").args(["-l", &length]).arg(self.filler()));
    }

    /// It takes all room there is, to the last byte.
    #[track_caller]
    pub(crate) fn fill(&self) {
        self.fill_but(1 << 20);
        let mut filler = fs::File::options().append(true).open(self.filler()).expect("the filler");
        for chunk_bytes in [65_536, 1_024] {
            while filler.write_all(&vec![0; chunk_bytes]).and_then(|()| filler.sync_all()).is_ok() {}
        }
        assert_eq!(self.free_bytes(), 0);
    }

    /// It gives the room back, for good: without the sync, a cut of the power would bring the filler back.
    #[track_caller]
    pub(crate) fn empty(&self) {
        fs::remove_file(self.filler()).expect("the filler");
        let folder = fs::File::open(&self.mount).expect("the folder of the disk");
        folder.sync_all().expect("the filler is gone for good");
    }

    #[track_caller]
    pub(crate) fn free_bytes(&self) -> u64 {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.mount).output().expect("df");
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number of bytes")
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.mount).stderr(Stdio::null()).status());
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
