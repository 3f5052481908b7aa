//! The log on disk: segment files of checksummed frames, one frame a write.
//!
//! A frame is on disk (fdatasync) before the next one is written. So a damaged frame
//! that a whole one follows was damaged *after* it had counted, and the log refuses to
//! open. One that nothing follows may be a write that never counted: it is cut where the
//! disk has left a sector of it as it was reserved, and refused as well where none is.
//!
//! A segment is made under another name, reserved and written, and appears by a rename.
//! One that starts with a base needs nothing before it: older segments go.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::bytes::{Put, Take};
use crate::records::{stands_alone, Recovered};
use crate::room::{clear, open_for_writing, open_new, open_pulse, reserve_space, sync_dir};

const MAGIC: &[u8; 8] = b"pgbraft\n";
const VERSION: u32 = 1;
const STANDS_ALONE: u32 = 1;
const HEADER: u64 = 40;
const FRAME_MAGIC: u32 = 0x6672_6d31;
const FRAME_HEADER: u64 = 24;
/// What a disk writes whole or not at all; many write more at once.
const SECTOR: u64 = 512;
/// Reserved for a segment; one whose first frame is longer gets more.
pub const SEGMENT_BYTES: u64 = 4 << 20;
const SPARE: &str = "spare.tmp";
const NEXT: &str = "next.tmp";
const PULSE: &str = "pulse";

/// The log of one member, open for appending.
pub struct DiskLog {
    dir: PathBuf,
    file: File,
    number: u64,
    offset: u64,
    capacity: u64,
    sequence: u64,
    /// Whether the next segment has its space.
    reserved: bool,
    /// Written since the newest base.
    since_base: u64,
    /// Written over and over, to see that the disk answers.
    pulse: File,
}

/// What opening found worth telling.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: PathBuf,
    pub offset: u64,
}

impl DiskLog {
    /// Make the first segment; `records` begin with a base.
    pub fn create(dir: &Path, records: &[u8]) -> Result<DiskLog, String> {
        let failed =
            |e: io::Error| format!("{}: cannot create the log: {e}", dir.display());
        let pulse = open_pulse(dir, PULSE).map_err(failed)?;
        let (file, offset, capacity) = make_segment(dir, 1, 1, records).map_err(failed)?;
        let (dir_of, number, sequence, reserved) = (dir.to_owned(), 1, 2, false);
        let mut log = DiskLog {
            dir: dir_of,
            file,
            number,
            offset,
            capacity,
            sequence,
            reserved,
            since_base: 0,
            pulse,
        };
        if let Err(error) = log.reserve() {
            // What could not be made whole is not to be found at the next start.
            for (_, path) in segments(dir)? {
                remove(&path)?;
            }
            return Err(cannot_reserve(dir, &error));
        }
        Ok(log)
    }

    /// Read the log back, cut a torn tail, and go on after it.
    ///
    /// # Errors
    ///
    /// The message names file and offset of what is damaged or missing.
    pub fn open(dir: &Path) -> Result<(DiskLog, Recovered, Option<Cut>), String> {
        let back = ReadBack::of(dir)?;
        // The name of the newest segment may be in memory alone, too.
        sync_dir(dir).map_err(|e| format!("{}: cannot sync: {e}", dir.display()))?;
        for old in &back.outdated {
            remove(old)?;
        }
        let (log, cut) = DiskLog::reopen(dir, &back)?;
        Ok((log, back.recovered, cut))
    }

    fn reopen(dir: &Path, back: &ReadBack) -> Result<(DiskLog, Option<Cut>), String> {
        let (last, end) = (&back.last, back.end);
        let path = &last.path;
        let failed =
            |e: io::Error| format!("{}: cannot open for writing: {e}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let capacity = (last.bytes.len() as u64).max(SEGMENT_BYTES);
        let torn = last.is_torn(end);
        if torn || (last.bytes.len() as u64) < capacity {
            file.set_len(end).map_err(failed)?;
            reserve_space(&file, capacity).map_err(|e| cannot_reserve(dir, &e))?;
        }
        // A process that was killed before its write was on disk has left it in memory,
        // where it is read like any other; one whose sync failed may even pass for
        // written there. Written once more it is on disk before anything counts on it.
        let newest = &last.bytes[back.newest as usize..last.bytes.len().min(end as usize)];
        file.write_all_at(newest, back.newest)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        let cut = torn.then(|| Cut { file: path.clone(), offset: end });
        let pulse = open_pulse(dir, PULSE).map_err(|e| cannot_reserve(dir, &e))?;
        let (dir_of, number, offset) = (dir.to_owned(), last.number, end);
        let mut log = DiskLog {
            dir: dir_of,
            file,
            number,
            offset,
            capacity,
            sequence: back.sequence,
            reserved: false,
            since_base: end,
            pulse,
        };
        log.try_to_reserve();
        Ok((log, cut))
    }

    /// Put records on disk; they are there when this returns. Without any, the disk is
    /// only made to answer: the log stays as it is.
    ///
    /// # Errors
    ///
    /// A failed write or sync, or a log whose file is gone. It must not be used again.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            // It could be written, and nobody would find it at the next start.
            return Err(io::Error::new(io::ErrorKind::NotFound, "its file was removed"));
        }
        self.try_to_reserve();
        if records.is_empty() {
            self.pulse.write_all_at(&frame(self.sequence, records), 0)?;
            return self.pulse.sync_data();
        }
        let frame = frame(self.sequence, records);
        let alone = stands_alone(records);
        self.since_base += frame.len() as u64;
        if alone || self.offset + frame.len() as u64 > self.capacity {
            self.roll(records)?;
            if alone {
                self.since_base = 0;
                self.forget_older()?;
            }
            return Ok(());
        }
        self.file.write_all_at(&frame, self.offset)?;
        self.file.sync_data()?;
        self.offset += frame.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    fn roll(&mut self, records: &[u8]) -> io::Result<()> {
        let number = self.number + 1;
        let (file, offset, capacity) =
            make_segment(&self.dir, number, self.sequence, records)?;
        self.file = file;
        self.number = number;
        self.offset = offset;
        self.capacity = capacity;
        self.sequence += 1;
        self.reserved = false;
        self.try_to_reserve();
        Ok(())
    }

    fn forget_older(&mut self) -> io::Result<()> {
        let older = segments(&self.dir).map_err(io::Error::other)?;
        let current = self.number;
        for (_, path) in older.into_iter().filter(|(number, _)| *number < current) {
            if self.reserved {
                fs::remove_file(path)?;
            } else {
                // On a full disk: what others would take if it were free.
                fs::rename(path, self.dir.join(SPARE))?;
                self.try_to_reserve();
            }
        }
        sync_dir(&self.dir)
    }

    /// Tell whether the log can grow by a segment whatever others do to the disk.
    pub fn has_reserve(&self) -> bool {
        self.reserved
    }

    /// Tell whether a base should take the place of what was written: before the segment
    /// is full, so that the one in reserve is there for it, also on a full disk.
    pub fn wants_base(&self) -> bool {
        self.since_base > SEGMENT_BYTES / 2
    }

    /// Without a reserve the log goes on until its segment is full; whoever needs the
    /// one after it hears of the full disk.
    fn try_to_reserve(&mut self) {
        let spare = self.dir.join(SPARE);
        if !self.reserved && self.reserve().is_err() {
            // What could be had of it is of more use to whoever makes room.
            let _ = fs::remove_file(spare);
        }
    }

    /// Reserve the space of the next segment before it is needed.
    fn reserve(&mut self) -> io::Result<()> {
        let path = self.dir.join(SPARE);
        let file = open_for_writing(&path)?;
        reserve_space(&file, SEGMENT_BYTES)?;
        clear(&file, SEGMENT_BYTES)?;
        file.sync_all()?;
        self.reserved = true;
        Ok(())
    }
}

/// What the files of a log say; nothing is changed by reading them.
pub struct ReadBack {
    pub recovered: Recovered,
    /// Segments that the log does not need any more.
    pub outdated: Vec<PathBuf>,
    pub segments: usize,
    last: Segment,
    /// Where the last whole frame begins, and where it ends.
    newest: u64,
    end: u64,
    sequence: u64,
}

impl ReadBack {
    /// Read every frame and check it.
    ///
    /// # Errors
    ///
    /// The message names file and offset of what is damaged or missing.
    pub fn of(dir: &Path) -> Result<ReadBack, String> {
        let mut pieces = Vec::new();
        for (number, path) in segments(dir)? {
            pieces.push(Segment::read(number, path)?);
        }
        let first = pieces.iter().rposition(|piece| piece.alone);
        let Some(first) = first else {
            return Err(format!("{}: the beginning of the log is missing", dir.display()));
        };
        let outdated = pieces.drain(..first).map(|old| old.path).collect();
        let mut recovered = Recovered::default();
        let mut expected = (pieces[0].number, pieces[0].first_sequence);
        let (mut newest, mut end) = (HEADER, HEADER);
        for (position, piece) in pieces.iter().enumerate() {
            if (piece.number, piece.first_sequence) != expected {
                let at = pieces[position.saturating_sub(1)].path.display();
                return Err(format!(
                    "{at}: damaged at offset {end}: what follows is missing"
                ));
            }
            let read = piece.frames(&mut recovered)?;
            (newest, end) = (read.newest, read.end);
            expected = (piece.number + 1, read.sequence);
        }
        if recovered.hard_state.commit > recovered.last_index() {
            return Err(format!(
                "{}: the log ends before what was committed",
                dir.display()
            ));
        }
        let segments = pieces.len();
        let last = pieces.pop().expect("the first piece is there");
        let sequence = expected.1;
        Ok(ReadBack { recovered, outdated, segments, last, newest, end, sequence })
    }

    /// The write that was cut off by a crash, if there is one.
    pub fn torn(&self) -> Option<Cut> {
        let file = self.last.path.clone();
        self.last.is_torn(self.end).then_some(Cut { file, offset: self.end })
    }
}

/// Tell whether there is any file of a log.
pub fn has_log(dir: &Path) -> Result<bool, String> {
    Ok(!segments(dir)?.is_empty())
}

/// See whether there is room for a log: its first segment, and the reserve.
pub fn check_room(dir: &Path) -> Result<(), String> {
    let spare = dir.join(SPARE);
    let tried = open_new(&spare).and_then(|file| reserve_space(&file, 2 * SEGMENT_BYTES));
    // The log makes it anew.
    let _ = fs::remove_file(&spare);
    tried.map_err(|e| cannot_reserve(dir, &e))
}

fn cannot_reserve(dir: &Path, error: &io::Error) -> String {
    format!("{}: cannot reserve space for the log: {error}", dir.display())
}

fn remove(path: &Path) -> Result<(), String> {
    fs::remove_file(path).map_err(|e| format!("{}: cannot remove: {e}", path.display()))
}

/// Make a segment with its first frame, durably, and then let it appear.
fn make_segment(
    dir: &Path,
    number: u64,
    sequence: u64,
    records: &[u8],
) -> io::Result<(File, u64, u64)> {
    let mut bytes = header(number, sequence, stands_alone(records));
    bytes.extend_from_slice(&frame(sequence, records));
    let end = bytes.len() as u64;
    let capacity = end.max(SEGMENT_BYTES);
    let next = dir.join(NEXT);
    let spare = dir.join(SPARE);
    let file = if capacity == SEGMENT_BYTES && spare.exists() {
        fs::rename(&spare, &next)?;
        OpenOptions::new().read(true).write(true).open(&next)?
    } else {
        open_new(&next)?
    };
    reserve_space(&file, capacity)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    fs::rename(&next, dir.join(format!("{number:016x}.log")))?;
    sync_dir(dir)?;
    Ok((file, end, capacity))
}

fn header(number: u64, sequence: u64, alone: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER as usize);
    out.extend_from_slice(MAGIC);
    out.put_u32(VERSION);
    out.put_u32(if alone { STANDS_ALONE } else { 0 });
    out.put_u64(number);
    out.put_u64(sequence);
    out.put_u32(crc32fast::hash(&out));
    out.put_u32(0);
    out
}

fn frame(sequence: u64, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() + 32);
    let length = u32::try_from(records.len()).expect("one write is far below 4 GiB");
    out.put_u32(FRAME_MAGIC);
    out.put_u32(length);
    out.put_u64(sequence);
    out.put_u32(checksum(length, sequence, records));
    out.put_u32(0);
    out.extend_from_slice(records);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn checksum(length: u32, sequence: u64, records: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(records);
    hasher.finalize()
}

/// The segment files of a directory in the order of their numbers.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, String> {
    let failed = |e: io::Error| format!("{}: cannot read: {e}", dir.display());
    let mut found = Vec::new();
    for item in fs::read_dir(dir).map_err(failed)? {
        let path = item.map_err(failed)?.path();
        if path.extension() != Some(OsStr::new("log")) {
            continue;
        }
        let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let number = u64::from_str_radix(stem, 16)
            .map_err(|_| format!("{}: not a file of the log", path.display()))?;
        found.push((number, path));
    }
    found.sort();
    Ok(found)
}

/// A segment file read into memory.
struct Segment {
    path: PathBuf,
    number: u64,
    first_sequence: u64,
    alone: bool,
    bytes: Vec<u8>,
}

struct FramesRead {
    newest: u64,
    end: u64,
    sequence: u64,
}

impl Segment {
    fn read(number: u64, path: PathBuf) -> Result<Segment, String> {
        let name = path.display().to_string();
        let bytes = fs::read(&path).map_err(|e| format!("{name}: cannot read: {e}"))?;
        let mut take = Take(&bytes);
        let mut fields =
            || -> Result<(u32, u32, u64, u64, bool), crate::bytes::Malformed> {
                let magic = take.array::<8>()? == *MAGIC;
                let (version, flags) = (take.u32()?, take.u32()?);
                let (number, sequence) = (take.u64()?, take.u64()?);
                let whole = take.u32()? == crc32fast::hash(&bytes[..32]);
                Ok((version, flags, number, sequence, magic && whole))
            };
        let Ok((version, flags, inside, first_sequence, true)) = fields() else {
            return Err(format!("{name}: damaged at offset 0: no header of a log"));
        };
        if version != VERSION {
            return Err(format!(
                "{name}: format {version} of the log; this program reads {VERSION}"
            ));
        }
        if inside != number {
            return Err(format!("{name}: the file says that it is number {inside:016x}"));
        }
        let alone = flags & STANDS_ALONE != 0;
        Ok(Segment { path, number, first_sequence, alone, bytes })
    }

    /// Tell whether anything was written after `end`, which is no whole frame.
    fn is_torn(&self, end: u64) -> bool {
        let rest = self.bytes.get(end as usize..).unwrap_or_default();
        rest.iter().any(|byte| *byte != 0)
    }

    /// Read the frames up to the first that is not whole.
    fn frames(&self, recovered: &mut Recovered) -> Result<FramesRead, String> {
        let (mut newest, mut end, mut sequence) = (HEADER, HEADER, self.first_sequence);
        while let Some((found, records, next)) = self.frame_at(end) {
            if found != sequence {
                break;
            }
            recovered.read(records).map_err(|_| {
                format!("{}: senseless record at offset {end}", self.path.display())
            })?;
            (newest, end) = (end, next);
            sequence += 1;
        }
        if end == HEADER {
            // A segment appears only once its first frame is on disk.
            return Err(format!(
                "{}: damaged at offset {end}: the first record is not whole",
                self.path.display()
            ));
        }
        let why = match self.whole_frame_after(end, sequence) {
            Some(later) => format!("a whole record follows at offset {later}"),
            None if self.was_whole(end) => "the last record was whole once".to_owned(),
            None => return Ok(FramesRead { newest, end, sequence }),
        };
        Err(format!("{}: damaged at offset {end}: {why}", self.path.display()))
    }

    /// Return sequence, records and end of a whole frame at `offset`.
    fn frame_at(&self, offset: u64) -> Option<(u64, &[u8], u64)> {
        let mut take = Take(self.bytes.get(offset as usize..)?);
        if take.u32().ok()? != FRAME_MAGIC {
            return None;
        }
        let (length, sequence) = (take.u32().ok()?, take.u64().ok()?);
        let (sum, _) = (take.u32().ok()?, take.u32().ok()?);
        let records = take.bytes(length as usize).ok()?;
        if checksum(length, sequence, records) != sum {
            return None;
        }
        let end = (offset + FRAME_HEADER + u64::from(length)).next_multiple_of(8);
        Some((sequence, records, end))
    }

    /// Tell whether all of a frame that is not whole was on disk once: a write that was
    /// cut off leaves at least one of its sectors empty.
    fn was_whole(&self, offset: u64) -> bool {
        let mut take = Take(self.bytes.get(offset as usize..).unwrap_or_default());
        let (Ok(magic), Ok(length)) = (take.u32(), take.u32()) else { return false };
        if (magic, length) == (0, 0) {
            return false;
        }
        let end = offset + FRAME_HEADER + u64::from(length);
        if magic != FRAME_MAGIC || end > self.bytes.len() as u64 {
            return true;
        }
        (offset / SECTOR..end.div_ceil(SECTOR)).all(|sector| {
            let from = (sector * SECTOR).max(offset) as usize;
            let to = ((sector + 1) * SECTOR).min(end) as usize;
            self.bytes[from..to].iter().any(|byte| *byte != 0)
        })
    }

    fn whole_frame_after(&self, from: u64, sequence: u64) -> Option<u64> {
        (from..self.bytes.len() as u64)
            .step_by(8)
            .find(|offset| self.frame_at(*offset).is_some_and(|frame| frame.0 >= sequence))
    }
}
