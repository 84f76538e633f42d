//! Is a folder on a file system that other machines share?
//!
//! There a lock may be granted to each machine on its own, and the write-ahead log's index, which is shared memory, is
//! not the same memory on two machines. Neither shows as an error, so such a file system is refused by its name.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// File systems of Linux that reach over a network, as `/proc/self/mountinfo` names them.
const NETWORK: &[&str] = &[
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.curlftpfs",
    "fuse.davfs2",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.mfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "smb3",
    "smbfs",
];

/// The name of the network file system that `folder` is on. `None` when it is on another, or when the system does not
/// tell (only Linux does): then the lock itself has to fail.
pub(super) fn of(folder: &Path) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    file_system(&mounts, device).filter(|name| NETWORK.contains(name)).map(str::to_owned)
}

/// The type of the file system with this device number (proc_pid_mountinfo(5): the third field, and the first after
/// the dash).
fn file_system(mounts: &str, device: u64) -> Option<&str> {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    let number = format!("{major}:{minor}");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(number.as_str()))?;
    line.split_once(" - ")?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 253:0 / / rw,relatime - ext4 /dev/vda rw
31 22 0:27 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=400k
77 22 0:45 / /srv/with\\040space rw,relatime shared:40 - nfs4 nas:/export rw,vers=4.2,local_lock=none
78 22 0:46 / /srv/office rw,relatime - cifs //nas/office rw,nolock
";

    #[test]
    fn a_file_system_is_found_by_its_device() {
        assert_eq!(file_system(MOUNTS, 253 << 8), Some("ext4"));
        assert_eq!(file_system(MOUNTS, 45), Some("nfs4"));
        assert_eq!(file_system(MOUNTS, 46), Some("cifs"));
        assert_eq!(file_system(MOUNTS, 47), None);
        // A minor number beyond 8 bits is in two pieces (makedev(3)).
        assert_eq!(
            file_system("1 1 8:300 / / rw - xfs x rw", (300 & 0xff) | (8 << 8) | (0x100 << 12)),
            Some("xfs")
        );
    }

    #[test]
    fn the_folder_of_the_tests_is_known_and_local() {
        let folder = tempfile::tempdir().expect("a folder");
        let device = fs::metadata(folder.path()).expect("there").dev();
        if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
            println!("{} is on {:?}", folder.path().display(), file_system(&mounts, device));
        }
        assert_eq!(of(folder.path()), None, "the tests need a local disk");
    }
}
