//! bpf(2) for tables of plain values: what aya has no calls for (batches).

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Plain numbers in the layout that C has, without hidden padding.
///
/// # Safety
/// Any bytes must be a valid value, and no byte of a value may be uninitialised.
pub(crate) unsafe trait Plain: Copy + Default {}

// SAFETY: a number.
unsafe impl Plain for u32 {}
// SAFETY: a number.
unsafe impl Plain for u64 {}

/// A value from its bytes; `None` if there are too few.
pub(crate) fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, any bytes are a valid value, and the read may be unaligned.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

// enum bpf_cmd
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const MAP_LOOKUP_BATCH: libc::c_long = 24;

/// union bpf_attr for BPF_MAP_*_ELEM.
#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// union bpf_attr for BPF_MAP_*_BATCH.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: `attributes` is laid out as the command wants it, and what it points to is owned by
    // the callers below for the time of the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

/// This process's open attachments of programs.
pub(crate) fn links() -> io::Result<Vec<RawFd>> {
    let mut links: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        // Others come and go meanwhile.
        let what = std::fs::read_link(entry.path()).unwrap_or_default();
        if what.as_os_str() == "anon_inode:bpf_link" {
            let name = entry.file_name();
            links.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
        }
    }
    Ok(links)
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A hash or an array in the kernel.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    fd: OwnedFd,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Of the kernel's table behind `fd`, whose keys and values must have these sizes.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { fd: fd.try_clone_to_owned()?, types: PhantomData })
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Self::new(self.fd.as_fd())
    }

    fn element(&self, key: &K, value: u64) -> Element {
        let map = self.fd.as_raw_fd() as u32;
        Element { map, pad: 0, key: address(key), value, flags: 0 }
    }

    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let mut element = self.element(key, std::ptr::from_mut(&mut value) as u64);
        Ok(if_there(call(MAP_LOOKUP_ELEM, &mut element))?.map(|()| value))
    }

    pub fn set(&self, key: &K, value: &V) -> io::Result<()> {
        call(MAP_UPDATE_ELEM, &mut self.element(key, address(value)))
    }

    pub fn remove(&self, key: &K) -> io::Result<()> {
        if_there(call(MAP_DELETE_ELEM, &mut self.element(key, 0))).map(drop)
    }

    /// Of an array for each processor: all of them.
    pub fn get_all(&self, key: &K, processors: usize) -> io::Result<Vec<V>> {
        let mut values = vec![V::default(); processors];
        let mut element = self.element(key, values.as_mut_ptr() as u64);
        call(MAP_LOOKUP_ELEM, &mut element)?;
        Ok(values)
    }

    /// Sets it for all processors.
    pub fn set_all(&self, key: &K, processors: usize, value: V) -> io::Result<()> {
        let values = vec![value; processors];
        call(MAP_UPDATE_ELEM, &mut self.element(key, values.as_ptr() as u64))
    }

    /// Everything in a hash, once through. What comes or goes meanwhile may be seen or not.
    pub fn each(&self, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
        let mut room = 2048;
        let mut token = [0u64; 16];
        let mut first = true;
        loop {
            let mut keys = vec![K::default(); room];
            let mut values = vec![V::default(); room];
            let mut next = [0u64; 16];
            let mut batch = Batch {
                in_batch: if first { 0 } else { address(&token) },
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: room as u32,
                map: self.fd.as_raw_fd() as u32,
                element_flags: 0,
                flags: 0,
            };
            let result = call(MAP_LOOKUP_BATCH, &mut batch);
            let ended = match result {
                Ok(()) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                // One bucket holds more than there is room for.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                    room *= 2;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let count = (batch.count as usize).min(room);
            keys[..count].iter().zip(&values[..count]).for_each(|(k, v)| visit(k, v));
            if ended {
                return Ok(());
            }
            (token, first) = (next, false);
        }
    }

    /// The keys of a small hash.
    pub fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = K::default();
            let mut element = Element {
                map: self.fd.as_raw_fd() as u32,
                pad: 0,
                key: keys.last().map_or(0, address),
                value: std::ptr::from_mut(&mut next) as u64,
                flags: 0,
            };
            match if_there(call(MAP_GET_NEXT_KEY, &mut element))? {
                Some(()) => keys.push(next),
                None => return Ok(keys),
            }
        }
    }
}
