//! The log on disk: what is kept, what is cut, what refuses to open.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use _engine::disk::{Cut, DiskLog, SEGMENT_BYTES};
use _engine::home::{Home, Identity};
use _engine::offline::look;
use _engine::records::{joining, put_base, put_entry, put_hard_state, Base, Recovered};
use raft::eraftpb::{Entry, HardState};

/// A directory that is removed at the end, also of a test that fails.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgbastion-log-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn records(index: u64, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let entry = Entry { index, term: 1, data: data.to_vec().into(), ..Entry::default() };
    put_entry(&mut out, &entry);
    let state = HardState { term: 1, vote: 1, commit: index, ..HardState::default() };
    put_hard_state(&mut out, &state);
    out
}

fn log_of(dir: &Path, entries: u64) -> DiskLog {
    let mut log = DiskLog::create(dir, &joining()).expect("a new log");
    for index in 1..=entries {
        log.append(&records(index, b"some data of an entry")).expect("a write");
    }
    log
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("0000000000000001.log")
}

fn open(dir: &Path) -> Result<(Recovered, Option<Cut>), String> {
    DiskLog::open(dir).map(|(_, recovered, cut)| (recovered, cut))
}

/// The offset of the frame that holds this entry, and of its end.
fn frame_of(dir: &Path, data: &[u8]) -> (u64, u64) {
    let bytes = fs::read(first_segment(dir)).expect("the segment");
    let at = bytes.windows(data.len()).position(|window| window == data).expect("the data");
    let magic = 0x6672_6d31u32.to_le_bytes();
    let start =
        bytes[..at].windows(4).rposition(|window| window == magic).expect("a frame");
    let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().expect("four"));
    (start as u64, (start as u64 + 24 + u64::from(length)).next_multiple_of(8))
}

fn write_at(dir: &Path, offset: u64, bytes: &[u8]) {
    let file =
        OpenOptions::new().write(true).open(first_segment(dir)).expect("the segment");
    file.write_all_at(bytes, offset).expect("a write");
}

fn flip(dir: &Path, offset: u64) {
    let byte = fs::read(first_segment(dir)).expect("the segment")[offset as usize];
    write_at(dir, offset, &[byte ^ 0x10]);
}

#[test]
fn what_was_written_is_read_back() {
    let folder = Folder::new();
    log_of(&folder.0, 3);

    let (recovered, cut) = open(&folder.0).expect("a whole log");

    assert_eq!(recovered.entries.iter().map(|e| e.index).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((recovered.hard_state.term, recovered.hard_state.commit), (1, 3));
    assert_eq!(cut, None);
}

#[test]
fn a_log_goes_on_after_it_was_opened_again() {
    let folder = Folder::new();
    log_of(&folder.0, 2);
    let (mut log, ..) = DiskLog::open(&folder.0).expect("a whole log");
    log.append(&records(3, b"third")).expect("a write");

    assert_eq!(open(&folder.0).expect("a whole log").0.last_index(), 3);
}

#[test]
fn an_entry_replaces_what_was_written_from_its_index_on() {
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 3);
    log.append(&records(2, b"another second")).expect("a write");

    let (recovered, _) = open(&folder.0).expect("a whole log");

    assert_eq!(recovered.last_index(), 2);
    assert_eq!(&recovered.entries[1].data[..], b"another second");
}

const SECTOR: u64 = 512;

/// Write an entry that fills some sectors, and return where its frame lies.
fn append_long(dir: &Path, log: &mut DiskLog, index: u64) -> (u64, u64) {
    let data = [7; 4 * SECTOR as usize];
    log.append(&records(index, &data)).expect("a write");
    frame_of(dir, &data)
}

#[test]
fn a_write_that_was_torn_anywhere_is_cut() {
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 2);
    let (start, end) = append_long(&folder.0, &mut log, 3);
    drop(log);
    let whole = fs::read(first_segment(&folder.0)).expect("the segment");
    // The last bytes are zeroes, written or not.
    let sectors = start / SECTOR..(end - 16).div_ceil(SECTOR);

    let ranges = |one: u64| [one..one + 1, one + 1..sectors.end];
    for lost in sectors.clone().flat_map(ranges).filter(|lost| !lost.is_empty()) {
        // What had not reached the disk is still as it was reserved.
        let mut bytes = whole.clone();
        let (from, to) = ((lost.start * SECTOR).max(start), (lost.end * SECTOR).min(end));
        bytes[from as usize..to as usize].fill(0);
        fs::write(first_segment(&folder.0), &bytes).expect("the torn segment");

        let (recovered, cut) = open(&folder.0).expect("the tail is cut");

        assert_eq!(recovered.last_index(), 2);
        assert_eq!(cut, Some(Cut { file: first_segment(&folder.0), offset: start }));
        assert_eq!(open(&folder.0).expect("it was cut").1, None);
    }
}

#[test]
fn a_flipped_bit_in_the_last_write_refuses_although_nothing_follows_it() {
    // It may hold a vote, or an entry that was acknowledged: cut off, this member would
    // forget it.
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 2);
    let (start, end) = append_long(&folder.0, &mut log, 3);
    drop(log);

    // Of the header four bytes mean nothing, and two make the frame so long that it seems
    // to be cut off.
    let header = [0, 3, 4, 7, 8, 15, 16, 19].map(|at| start + at);
    for offset in header.into_iter().chain((start + 24..end - 8).step_by(13)) {
        flip(&folder.0, offset);
        let message = open(&folder.0).expect_err("damage at the end");
        assert!(message.contains(&format!("offset {start}")), "{offset}: {message}");
        flip(&folder.0, offset);
    }
    assert_eq!(open(&folder.0).expect("it is as it was").0.last_index(), 3);
}

#[test]
fn a_flipped_bit_in_the_middle_refuses_with_file_and_offset() {
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 1);
    log.append(&records(2, b"the victim")).expect("a write");
    log.append(&records(3, b"after it")).expect("a write");
    drop(log);
    let (start, end) = frame_of(&folder.0, b"the victim");

    for offset in start..end - 8 {
        flip(&folder.0, offset);
        // Four bytes of the header mean nothing.
        if !(start + 20..start + 24).contains(&offset) {
            let message = open(&folder.0).expect_err("damage in the middle");
            assert!(message.contains("0000000000000001.log"), "{message}");
            assert!(message.contains(&format!("offset {start}")), "{message}");
        }
        flip(&folder.0, offset);
    }
}

#[test]
fn a_hole_in_the_middle_refuses() {
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 1);
    log.append(&records(2, b"the victim")).expect("a write");
    log.append(&records(3, b"after it")).expect("a write");
    drop(log);
    let (start, end) = frame_of(&folder.0, b"the victim");
    write_at(&folder.0, start, &vec![0; (end - start) as usize]);

    let message = open(&folder.0).expect_err("a hole");

    assert!(message.contains(&format!("offset {start}")), "{message}");
}

fn filled(dir: &Path) {
    let mut log = DiskLog::create(dir, &joining()).expect("a new log");
    let data = vec![7; 1 << 20];
    for index in 1..=10 {
        log.append(&records(index, &data)).expect("a write");
    }
}

#[test]
fn a_full_segment_is_followed_by_another() {
    let folder = Folder::new();
    filled(&folder.0);

    assert!(folder.0.join("0000000000000002.log").exists());
    assert_eq!(open(&folder.0).expect("a whole log").0.last_index(), 10);
}

#[test]
fn a_missing_segment_refuses() {
    let folder = Folder::new();
    filled(&folder.0);
    fs::remove_file(folder.0.join("0000000000000002.log")).expect("it was there");

    assert!(open(&folder.0).expect_err("a gap").contains("missing"));
}

#[test]
fn the_end_of_an_older_segment_may_not_be_torn() {
    let folder = Folder::new();
    filled(&folder.0);
    let path = first_segment(&folder.0);
    let bytes = fs::read(&path).expect("the segment");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("data");
    flip(&folder.0, last as u64);

    let message = open(&folder.0).expect_err("what followed it was written later");

    assert!(message.contains("0000000000000001.log"), "{message}");
}

#[test]
fn the_first_segment_may_not_be_missing() {
    let folder = Folder::new();
    filled(&folder.0);
    fs::remove_file(first_segment(&folder.0)).expect("it was there");

    assert!(open(&folder.0).expect_err("no beginning").contains("beginning"));
}

#[test]
fn a_base_takes_the_place_of_all_older_segments() {
    let folder = Folder::new();
    filled(&folder.0);
    let (mut log, ..) = DiskLog::open(&folder.0).expect("a whole log");
    let base = Base { index: 10, term: 1, data: b"state".to_vec(), ..Base::default() };
    let mut out = Vec::new();
    put_base(&mut out, &base);
    log.append(&out).expect("a write");
    log.append(&records(11, b"after the base")).expect("a write");

    let names: Vec<_> = fs::read_dir(&folder.0)
        .expect("the directory")
        .map(|item| item.expect("an item").path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    let (recovered, _) = open(&folder.0).expect("a whole log");

    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!((recovered.base.index, recovered.last_index()), (10, 11));
    assert_eq!(recovered.base.data, b"state");
}

#[test]
fn a_crash_before_the_older_segments_went_does_no_harm() {
    let folder = Folder::new();
    filled(&folder.0);
    let old = fs::read(first_segment(&folder.0)).expect("the segment");
    let (mut log, ..) = DiskLog::open(&folder.0).expect("a whole log");
    let mut out = Vec::new();
    put_base(&mut out, &Base { index: 10, term: 1, ..Base::default() });
    log.append(&out).expect("a write");
    drop(log);
    fs::write(first_segment(&folder.0), old).expect("the old segment is back");

    assert_eq!(open(&folder.0).expect("a whole log").0.base.index, 10);
    assert!(!first_segment(&folder.0).exists());
}

#[test]
fn space_is_reserved_before_it_is_needed() {
    let folder = Folder::new();
    log_of(&folder.0, 1);

    for name in ["0000000000000001.log", "spare.tmp"] {
        let length = fs::metadata(folder.0.join(name)).expect("the file").len();
        assert_eq!(length, SEGMENT_BYTES, "{name}");
    }
}

#[test]
fn another_format_is_named() {
    let folder = Folder::new();
    log_of(&folder.0, 1);
    let mut header =
        fs::read(first_segment(&folder.0)).expect("the segment")[..40].to_vec();
    header[8] = 9;
    let sum = crc32fast::hash(&header[..32]).to_le_bytes();
    header[32..36].copy_from_slice(&sum);
    write_at(&folder.0, 0, &header);

    assert!(open(&folder.0).expect_err("a newer format").contains("format 9"));
}

#[test]
fn a_segment_that_was_cut_short_is_reserved_anew() {
    let folder = Folder::new();
    let mut log = DiskLog::create(&folder.0, &joining()).expect("a new log");
    // Its frame is filled up with zeroes, which the file has lost.
    log.append(&records(1, b"twenty bytes of data")).expect("a write");
    drop(log);
    let (_, end) = frame_of(&folder.0, b"twenty bytes of data");
    let file = OpenOptions::new().write(true).open(first_segment(&folder.0)).expect("it");
    file.set_len(end - 1).expect("shorter");

    let (recovered, _) = open(&folder.0).expect("what is whole is kept");

    assert_eq!(recovered.last_index(), 1);
    let length = fs::metadata(first_segment(&folder.0)).expect("the file").len();
    assert_eq!(length, SEGMENT_BYTES);
}

fn compacted(dir: &Path) -> PathBuf {
    log_of(dir, 3);
    let (mut log, ..) = DiskLog::open(dir).expect("a whole log");
    let data = b"the state of the cluster".to_vec();
    let mut out = Vec::new();
    put_base(&mut out, &Base { index: 3, term: 1, data, ..Base::default() });
    log.append(&out).expect("a write");
    dir.join("0000000000000002.log")
}

#[test]
fn a_flipped_bit_in_a_snapshot_refuses_although_nothing_follows_it() {
    // A segment gets its name when its first record is on disk, so this is no torn
    // write: read as one, the member would forget its vote and everything else.
    let folder = Folder::new();
    let segment = compacted(&folder.0);
    let whole = fs::read(&segment).expect("the segment");
    let end = whole.iter().rposition(|byte| *byte != 0).expect("data");
    for offset in (40..end).filter(|at| !(60..64).contains(at)) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 1;
        fs::write(&segment, &bytes).expect("a damaged segment");

        let message = open(&folder.0).expect_err("a damaged snapshot");

        assert!(message.contains("0000000000000002.log"), "{offset}: {message}");
        assert!(message.contains("offset 40"), "{offset}: {message}");
    }
}

#[test]
fn a_snapshot_that_was_cut_short_refuses() {
    let folder = Folder::new();
    let segment = compacted(&folder.0);
    let whole = fs::read(&segment).expect("the segment");
    for length in (0..whole.len().min(140)).step_by(7) {
        fs::write(&segment, &whole[..length]).expect("a short segment");
        if length < 120 {
            assert!(open(&folder.0).is_err(), "{length} bytes of it were taken");
        }
    }
}

#[test]
fn looking_at_a_directory_changes_nothing_in_it() {
    let folder = Folder::new();
    let home = Home::lock(&folder.0).expect("nobody has it");
    let (mut log, _) = home.settle(&identity(), &joining()).expect("an empty directory");
    log.append(&records(1, b"whole")).expect("a write");
    let (start, _) = append_long(&folder.0, &mut log, 2);
    drop(log);
    let sector = (start / SECTOR + 1) * SECTOR;
    write_at(&folder.0, sector, &[0; SECTOR as usize]);
    let before = fs::read(first_segment(&folder.0)).expect("the segment");

    let found = look(&folder.0).expect("it can be read").expect("it is a member");

    assert_eq!(found.torn.map(|cut| cut.offset), Some(start));
    assert_eq!(found.recovered.last_index(), 1);
    assert_eq!(fs::read(first_segment(&folder.0)).expect("the segment"), before);
}

#[test]
fn a_directory_with_an_identity_and_no_log_is_damaged() {
    let folder = Folder::new();
    let home = Home::lock(&folder.0).expect("nobody has it");
    home.settle(&identity(), &joining()).expect("an empty directory");
    fs::remove_file(first_segment(&folder.0)).expect("it was there");

    let Err(message) = look(&folder.0) else { panic!("a log out of nothing") };

    assert!(message.contains("no log"), "{message}");
}

// The directory

fn identity() -> Identity {
    Identity { cluster: b"cluster".to_vec(), member: 4, peers: vec![(1, "n1:8300".into())] }
}

#[test]
fn a_directory_serves_one_process_at_a_time() {
    let folder = Folder::new();
    let _home = Home::lock(&folder.0).expect("nobody has it");

    let Err(message) = Home::lock(&folder.0) else { panic!("two have it") };

    assert!(message.contains("another process"), "{message}");
}

#[test]
fn an_identity_is_read_back() {
    let folder = Folder::new();
    let home = Home::lock(&folder.0).expect("nobody has it");
    home.settle(&identity(), &joining()).expect("an empty directory");

    assert_eq!(Identity::read(&folder.0), Ok(Some(identity())));
}

#[test]
fn an_identity_whose_name_was_cut_off_by_a_crash_counts() {
    let folder = Folder::new();
    let home = Home::lock(&folder.0).expect("nobody has it");
    home.settle(&identity(), &joining()).expect("an empty directory");
    fs::rename(folder.0.join("identity"), folder.0.join("identity.tmp")).expect("a rename");

    let found = home.open().expect("it can be opened").expect("it is a member");

    assert_eq!(found.0, identity());
    assert!(folder.0.join("identity").exists());
}

#[test]
fn a_draft_without_a_log_is_nobody() {
    let folder = Folder::new();
    let home = Home::lock(&folder.0).expect("nobody has it");
    home.settle(&identity(), &joining()).expect("an empty directory");
    fs::rename(folder.0.join("identity"), folder.0.join("identity.tmp")).expect("a rename");
    fs::remove_file(first_segment(&folder.0)).expect("it was there");

    assert_eq!(Identity::read(&folder.0), Ok(None));
}

#[test]
fn a_log_without_an_identity_is_not_written_over() {
    let folder = Folder::new();
    let home = Home::lock(&folder.0).expect("nobody has it");
    home.settle(&identity(), &joining()).expect("an empty directory");
    fs::remove_file(folder.0.join("identity")).expect("it was there");

    assert!(Identity::read(&folder.0).is_err());
    assert!(home.settle(&identity(), &joining()).is_err());
}

#[test]
fn a_damaged_identity_is_named() {
    let folder = Folder::new();
    let home = Home::lock(&folder.0).expect("nobody has it");
    home.settle(&identity(), &joining()).expect("an empty directory");
    let path = folder.0.join("identity");
    let mut bytes = fs::read(&path).expect("the identity");
    bytes[10] ^= 1;
    fs::write(&path, bytes).expect("a write");

    assert!(Identity::read(&folder.0).expect_err("damage").contains("identity"));
}

#[test]
fn a_log_whose_file_was_removed_takes_nothing_more() {
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 1);
    fs::remove_file(first_segment(&folder.0)).expect("it is removed");

    for written in [records(2, b"to nobody"), Vec::new()] {
        let error = log.append(&written).expect_err("nobody would find it");

        assert_eq!(error.to_string(), "its file was removed");
    }
}

#[test]
fn a_pulse_makes_the_disk_answer_and_leaves_the_log_as_it_is() {
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 1);
    let before = fs::read(first_segment(&folder.0)).expect("the segment");

    log.append(&[]).expect("a pulse");

    let pulse = fs::read(folder.0.join("pulse")).expect("its file");
    assert!(pulse.iter().any(|byte| *byte != 0));
    assert_eq!(fs::read(first_segment(&folder.0)).expect("the segment"), before);
    log.append(&records(2, b"after it")).expect("a write");
    let (recovered, cut) = open(&folder.0).expect("a whole log");
    assert_eq!((recovered.last_index(), cut), (2, None));
}

#[test]
fn what_a_reserve_held_before_is_no_torn_write() {
    let folder = Folder::new();
    log_of(&folder.0, 1);
    let old = fs::read(first_segment(&folder.0)).expect("the segment");
    fs::write(folder.0.join("spare.tmp"), old).expect("an older segment in reserve");

    let (mut log, ..) = DiskLog::open(&folder.0).expect("a whole log");
    assert!(log.has_reserve());
    let mut out = Vec::new();
    put_base(&mut out, &Base { index: 1, term: 1, ..Base::default() });
    log.append(&out).expect("a write");

    let (recovered, cut) = open(&folder.0).expect("a whole log");
    assert_eq!((recovered.base.index, cut), (1, None));
}

#[test]
fn a_base_is_wanted_before_a_segment_is_full() {
    let folder = Folder::new();
    let mut log = log_of(&folder.0, 1);
    let data = vec![7; SEGMENT_BYTES as usize / 4];
    log.append(&records(2, &data)).expect("a write");
    assert!(!log.wants_base());
    log.append(&records(3, &data)).expect("a write");
    assert!(log.wants_base());

    let mut out = Vec::new();
    put_base(&mut out, &Base { index: 3, term: 1, ..Base::default() });
    log.append(&out).expect("a write");

    assert!(!log.wants_base());
}
