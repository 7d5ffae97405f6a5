//! Sockets of one machine: Unix ones, and TCP and UDP that lead back to it.
//!
//! A socket is fresh, listens, or is connected; one for datagrams is born connected to nobody. Connecting
//! makes the other end at once and puts it into the listener's queue, so that there is no handshake. What
//! then passes is a [`Stream`]'s or a [`Packets`]'s affair.
//!
//! Linux: net/unix/af_unix.c, net/ipv4. Differs: there is one machine, and no packets; a connection that is
//! closed is forgotten at once.

mod object;

use super::backlog::Backlog;
use super::file::{OpenFile, Wait, block_on};
use super::iov::{From, To};
use super::link::Link;
pub use super::link::{Amount, Kind};
use super::names::{self, Key, Names, key};
use super::packets::{self, Letter, Packets, Received};
use super::parcel::{Credentials, Parcel, Signature, Taking, Who};
use super::pipe::Direction;
use crate::arch::lock::SpinLock;
use crate::heap;
use crate::sched::{self, Mutex};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use anonmem_oslib::address::{Address, Family, LOOPBACK};
use anonmem_oslib::errno::{
    EADDRNOTAVAIL, ECONNREFUSED, EDESTADDRREQ, EINPROGRESS, EINVAL, EISCONN, EMSGSIZE, ENETUNREACH, ENOMEM,
    ENOTCONN, EOPNOTSUPP, EPERM, EPIPE, EPROTOTYPE,
};
use anonmem_oslib::vfs::Inode;
use anonmem_oslib::{Errno, Result};

#[derive(Clone)]
enum Role {
    Fresh,
    Listening(Arc<Backlog<Arc<Socket>>>),
    Connected(Link),
}

struct State {
    role: Role,
    name: Arc<Address>,
    peer: Arc<Address>,
    peer_is: Who,
    /// What was shut down before it was anything.
    ended: Option<Direction>,
    /// By what it is found in [`NAMES`].
    registered: Option<Key>,
}

impl State {
    fn ended_receiving(&self) -> bool {
        matches!(self.ended, Some(Direction::Read | Direction::Both))
    }
}

/// A socket.
pub struct Socket {
    /// What its addresses look like.
    pub family: Family,
    /// How it sends.
    pub kind: Kind,
    owner: Who,
    state: SpinLock<State>,
    /// Held while it gets a name, which takes as long as making a file.
    binding: Mutex<()>,
    options: SpinLock<BTreeMap<(u32, u32), u32>>,
}

/// What an inode of a socket leads to.
pub struct Bound(Weak<Socket>);

static NAMES: Names<Socket> = Names::none();

fn unnamed() -> Arc<Address> {
    Arc::new(Address::Unnamed)
}

impl Socket {
    /// Makes one.
    pub fn new(family: Family, kind: Kind, owner: Who) -> Arc<Socket> {
        let role = match kind {
            Kind::Datagram => {
                let kind = match family {
                    Family::Unix => packets::Kind::Datagram,
                    Family::Inet => packets::Kind::Lossy,
                };
                Role::Connected(Link::Packets(Arc::new(Packets::alone(kind))))
            }
            Kind::Stream | Kind::Sequenced => Role::Fresh,
        };
        Socket::with(family, kind, owner, role)
    }

    fn with(family: Family, kind: Kind, owner: Who, role: Role) -> Arc<Socket> {
        let (name, peer) = (unnamed(), unnamed());
        let state = State { role, name, peer, peer_is: owner, ended: None, registered: None };
        Arc::new(Socket {
            family,
            kind,
            owner,
            state: SpinLock::new(state),
            binding: Mutex::new(()),
            options: SpinLock::default(),
        })
    }

    /// Makes two that are connected.
    ///
    /// # Errors
    /// `ENFILE`.
    fn pair(family: Family, kind: Kind, (one, other): (Who, Who)) -> Result<(Link, Arc<Socket>)> {
        let (mine, theirs) = Link::pair(kind)?;
        let made = Socket::with(family, kind, other, Role::Connected(theirs));
        made.state.lock().peer_is = one;
        Ok((mine, made))
    }

    fn role(&self) -> Role {
        self.state.lock().role.clone()
    }

    fn link(&self) -> Result<Link> {
        match self.role() {
            Role::Connected(link) => Ok(link),
            Role::Fresh | Role::Listening(_) => Err(ENOTCONN),
        }
    }

    /// Gives its address.
    pub fn name(&self) -> Arc<Address> {
        self.state.lock().name.clone()
    }

    /// Gives the address of the one that it is connected to.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn peer(&self) -> Result<Arc<Address>> {
        let state = self.state.lock();
        let is_connected = match (&state.role, self.kind) {
            (Role::Connected(_), Kind::Datagram) if self.family == Family::Inet => {
                *state.peer != Address::Unnamed
            }
            (Role::Connected(Link::Packets(packets)), Kind::Datagram) => packets.is_connected(),
            (Role::Connected(_), _) => true,
            (Role::Fresh | Role::Listening(_), _) => false,
        };
        if is_connected { Ok(state.peer.clone()) } else { Err(ENOTCONN) }
    }

    /// Gives who made the one that it is connected to.
    pub fn peer_is(&self) -> Who {
        self.state.lock().peer_is
    }

    /// Says whether it listens.
    pub fn is_listening(&self) -> bool {
        matches!(self.state.lock().role, Role::Listening(_))
    }

    /// Gives it an address. A path is put into the tree by `place`; without an object that only looks whether
    /// it could be.
    ///
    /// # Errors
    /// `EINVAL` if it has one; `EADDRINUSE`, `EADDRNOTAVAIL`; what `place` gives.
    pub fn bind(
        self: &Arc<Self>,
        address: Address,
        place: impl FnOnce(&[u8], Option<Arc<Bound>>) -> Result<()>,
    ) -> Result<()> {
        let _alone = self.binding.lock();
        if *self.name() != Address::Unnamed {
            // What is wrong with a path comes first.
            return match &address {
                Address::Path(path) => place(path, None).and(Err(EINVAL)),
                Address::Unnamed | Address::Abstract(_) | Address::Inet(..) => Err(EINVAL),
            };
        }
        if !address.is_here() {
            return Err(EADDRNOTAVAIL);
        }
        match address {
            Address::Path(path) => {
                place(&path, Some(Arc::new(Bound(Arc::downgrade(self)))))?;
                // Who else names a Unix socket holds `binding`.
                let name = Arc::new(Address::Path(path));
                self.state.lock().name = name;
                Ok(())
            }
            Address::Abstract(_) | Address::Inet(_, 1..) => self.register(address),
            Address::Inet(machine, 0) => self.register_anywhere(|port| Address::Inet(machine, port as u16)),
            // Five hexadecimal digits, as on Linux.
            Address::Unnamed => self.register_anywhere(|number| {
                Address::Abstract(alloc::format!("{number:05x}").into_bytes().into_boxed_slice())
            }),
        }
    }

    /// Gives it a name by which it is found, in one step: of two that name it, one does. `EINVAL` for the
    /// other.
    fn register(self: &Arc<Self>, address: Address) -> Result<()> {
        let (key, weak) = (key(self.kind, &address), Arc::downgrade(self));
        let (registered, name) = (Some(key.clone()), Arc::new(address));
        NAMES.give(key, weak, || {
            let mut state = self.state.lock();
            if *state.name != Address::Unnamed {
                return Err(EINVAL);
            }
            (state.name, state.registered) = (name, registered);
            Ok(())
        })
    }

    /// Lets it be found by the first address that is free.
    fn register_anywhere(self: &Arc<Self>, address: impl Fn(u32) -> Address) -> Result<()> {
        names::first_free(|port| self.register(address(port)))
    }

    /// Finds who has an address; `find` looks into the tree.
    ///
    /// # Errors
    /// `ECONNREFUSED` if nobody has; `ENETUNREACH`; `EPROTOTYPE` if it sends in another way; what `find`
    /// gives.
    fn find(&self, address: &Address, find: impl FnOnce(&[u8]) -> Result<Arc<Inode>>) -> Result<Arc<Socket>> {
        if !address.is_here() {
            return Err(ENETUNREACH);
        }
        let found = match address {
            Address::Path(path) => find(path)?.object::<Bound>().and_then(|bound| bound.0.upgrade()),
            Address::Unnamed => return Err(EINVAL),
            Address::Abstract(_) | Address::Inet(..) => NAMES.get(&key(self.kind, address)),
        };
        let found = found.ok_or(ECONNREFUSED)?;
        if found.kind != self.kind {
            return Err(EPROTOTYPE);
        }
        Ok(found)
    }

    /// Takes connections from now on; `most` wait.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for datagrams; `EINVAL` if it has no address or is connected.
    pub fn listen(self: &Arc<Self>, most: usize) -> Result<()> {
        if self.kind == Kind::Datagram {
            return Err(EOPNOTSUPP);
        }
        if matches!(self.role(), Role::Fresh) {
            if self.family == Family::Unix && *self.name() == Address::Unnamed {
                return Err(EINVAL);
            }
            self.name_if_inet(0)?;
        }
        let new = Arc::new(Backlog::new(most));
        let backlog = {
            let mut state = self.state.lock();
            match &state.role {
                Role::Fresh => {
                    state.role = Role::Listening(new.clone());
                    let ended = state.ended_receiving();
                    drop(state);
                    if ended {
                        new.close();
                    }
                    return Ok(());
                }
                Role::Listening(backlog) => backlog.clone(),
                Role::Connected(_) => return Err(EINVAL),
            }
        };
        backlog.state.lock().most = most;
        backlog.accepted.notify();
        Ok(())
    }

    /// Connects it to who has an address; `find` looks into the tree.
    ///
    /// # Errors
    /// `EISCONN`, `EINVAL`, `ECONNREFUSED`, `EAGAIN`, `EINPROGRESS`, `ERESTARTSYS`; those of a search.
    pub fn connect(
        self: &Arc<Self>,
        address: &Address,
        wait: Wait,
        find: impl FnOnce(&[u8]) -> Result<Arc<Inode>>,
    ) -> Result<()> {
        let role = self.role();
        match role {
            // Nobody need be there: who sends will learn of it.
            Role::Connected(Link::Packets(_))
                if self.kind == Kind::Datagram && self.family == Family::Inet =>
            {
                return self.sends_datagrams_to(address);
            }
            Role::Connected(Link::Packets(packets)) if self.kind == Kind::Datagram => {
                self.name_if_told()?;
                let other = self.find(address, find)?;
                let Role::Connected(Link::Packets(theirs)) = other.role() else { return Err(ECONNREFUSED) };
                if !theirs.hears(&packets) {
                    return Err(EPERM);
                }
                self.send_to(&packets, Some(&theirs), self.as_seen(address));
                return Ok(());
            }
            Role::Connected(_) | Role::Listening(_) | Role::Fresh => self.may_connect(&role)?,
        }
        let other = self.find(address, find)?;
        let Role::Listening(backlog) = other.role() else { return Err(ECONNREFUSED) };
        self.name_if_inet(LOOPBACK)?;
        self.name_if_told()?;
        let (link, made) = Socket::pair(self.family, self.kind, (self.owner, other.owner))?;
        link.set_credentials(self.credentials());
        made.expect_credentials();
        if let Some(told) = other.option(SOL_SOCKET, SO_PASSCRED) {
            made.options.lock().insert((SOL_SOCKET, SO_PASSCRED), told);
        }
        {
            let mut state = made.state.lock();
            state.name = if self.family == Family::Inet { self.as_seen(address) } else { other.name() };
            state.peer = self.name();
        }
        let (mut made, peer) = (Some(made), self.as_seen(address));
        block_on(&backlog.accepted, wait, || {
            let mut queue = backlog.state.lock();
            if queue.closed {
                return Some(Err(ECONNREFUSED));
            }
            // Linux: one more than was asked for.
            if queue.waiting.len() > queue.most || queue.waiting.try_reserve(1).is_err() {
                return None;
            }
            // Somebody may have connected it, or let it listen, while this one waited.
            let mut state = self.state.lock();
            if let Err(error) = self.may_connect(&state.role) {
                return Some(Err(error));
            }
            state.role = Role::Connected(link.clone());
            (state.peer, state.peer_is) = (peer.clone(), other.owner);
            queue.waiting.extend(made.take());
            Some(Ok(()))
        })?;
        backlog.arrived.notify();
        let ended = self.state.lock().ended;
        ended.into_iter().for_each(|direction| link.shutdown(direction));
        // Over a network it would take a while, and who does not wait is told so.
        if self.family == Family::Inet && wait == Wait::No { Err(EINPROGRESS) } else { Ok(()) }
    }

    /// Connects one that sends datagrams over the Internet.
    fn sends_datagrams_to(self: &Arc<Self>, address: &Address) -> Result<()> {
        if !address.is_here() {
            return Err(ENETUNREACH);
        }
        self.name_if_inet(LOOPBACK)?;
        self.state.lock().peer = self.as_seen(address);
        Ok(())
    }

    /// Whether one with this role can be connected.
    fn may_connect(&self, role: &Role) -> Result<()> {
        match role {
            Role::Fresh => Ok(()),
            Role::Listening(_) if self.family == Family::Unix => Err(EINVAL),
            Role::Listening(_) | Role::Connected(_) => Err(EISCONN),
        }
    }

    /// Sends datagrams to `other`, whose address is `peer`, from now on: both change in one step.
    fn send_to(&self, packets: &Packets, other: Option<&Packets>, peer: Arc<Address>) {
        let before = {
            let mut state = self.state.lock();
            (packets.connect(other), core::mem::replace(&mut state.peer, peer))
        };
        drop(before);
    }

    /// Sends to nobody in particular from now on.
    ///
    /// # Errors
    /// `EINVAL` unless it sends datagrams.
    pub fn disconnect(&self) -> Result<()> {
        let Role::Connected(Link::Packets(packets)) = self.role() else { return Err(EINVAL) };
        if self.kind != Kind::Datagram {
            return Err(EINVAL);
        }
        self.send_to(&packets, None, unnamed());
        Ok(())
    }

    /// An address as the other side has it: this machine has one number where none was given.
    fn as_seen(&self, address: &Address) -> Arc<Address> {
        Arc::new(match address {
            Address::Inet(0, port) => Address::Inet(LOOPBACK, *port),
            other => other.clone(),
        })
    }

    /// Gives it a port of `machine` if its family has ports and it has none.
    fn name_if_inet(self: &Arc<Self>, machine: u32) -> Result<()> {
        if self.family != Family::Inet || *self.name() != Address::Unnamed {
            return Ok(());
        }
        self.unless_named(self.register_anywhere(|port| Address::Inet(machine, port as u16)))
    }

    /// Whoever has named it meanwhile has done what was wanted.
    fn unless_named(&self, named: Result<()>) -> Result<()> {
        if *self.name() != Address::Unnamed { Ok(()) } else { named }
    }

    /// Takes the first connection that waits.
    ///
    /// # Errors
    /// `EINVAL` if it does not listen, `EOPNOTSUPP` for datagrams; `EAGAIN`, `ERESTARTSYS`.
    pub fn accept(&self, wait: Wait) -> Result<Arc<Socket>> {
        if self.kind == Kind::Datagram {
            return Err(EOPNOTSUPP);
        }
        let Role::Listening(backlog) = self.role() else { return Err(EINVAL) };
        let socket = block_on(&backlog.arrived, wait, || {
            let mut queue = backlog.state.lock();
            match queue.waiting.pop_front() {
                Some(socket) => Some(Ok(socket)),
                None if queue.closed => Some(Err(EINVAL)),
                None => None,
            }
        })?;
        backlog.accepted.notify();
        if let Ok(link) = socket.link() {
            link.set_credentials(socket.credentials());
        }
        Ok(socket)
    }

    /// Whether it is told who sends.
    pub fn credentials(&self) -> Credentials {
        match self.option(SOL_SOCKET, SO_PASSCRED) {
            Some(1..) if self.family == Family::Unix => Credentials::Told,
            _ => Credentials::Untold,
        }
    }

    /// What comes before it is accepted is signed: whoever accepts it may ask. Linux: `unix_maybe_add_creds`.
    fn expect_credentials(&self) {
        if self.family == Family::Unix
            && let Ok(link) = self.link()
        {
            link.set_credentials(Credentials::Told);
        }
    }

    /// Gives it a name of the kernel's choice, if it tells who it is and has none.
    fn name_if_told(self: &Arc<Self>) -> Result<()> {
        if self.credentials() == Credentials::Untold || *self.name() != Address::Unnamed {
            return Ok(());
        }
        self.unless_named(self.bind(Address::Unnamed, |_, _| Err(EINVAL)))
    }

    /// Receives bytes or one message.
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`, `ERESTARTSYS`; `ENOTCONN`, of Unix streams `EINVAL`.
    pub fn receive(&self, to: &mut To<'_>, wait: Wait, how: (Taking, Amount)) -> Result<Received> {
        let unix_stream = (self.family, self.kind) == (Family::Unix, Kind::Stream);
        self.link().map_err(|error| if unix_stream { EINVAL } else { error })?.receive(to, wait, how)
    }

    /// Gives what the next call would fail with, which it then does not (`SO_ERROR`).
    pub fn take_error(&self) -> Option<Errno> {
        self.link().ok()?.take_error()
    }

    /// Sends bytes or one message; `to` has an address and what looks into the tree.
    ///
    /// # Errors
    /// `EPIPE`, `EAGAIN`, `EFAULT`, `ERESTARTSYS`; `ENOTCONN`, `EISCONN`, `EOPNOTSUPP`; of messages, those of
    /// [`Packets::send`].
    pub fn send<F: FnOnce(&[u8]) -> Result<Arc<Inode>>>(
        self: &Arc<Self>,
        from: &mut From<'_>,
        wait: Wait,
        (parcel, told): (Option<Parcel>, Option<Who>),
        to: Option<(Address, F)>,
    ) -> Result<usize> {
        let (link, signed) = (self.link(), self.signature(told));
        if let (Some(_), Family::Unix, Kind::Stream | Kind::Sequenced) = (&to, self.family, self.kind) {
            return Err(if link.is_ok() { EISCONN } else { EOPNOTSUPP });
        }
        match link {
            Ok(Link::Stream(stream)) => stream.send(from, wait, parcel, signed),
            Ok(Link::Packets(packets)) if self.family == Family::Inet => {
                self.name_if_inet(LOOPBACK)?;
                self.send_datagram(&packets, from, to.map(|(address, _)| address))
            }
            Ok(Link::Packets(packets)) => {
                self.name_if_told()?;
                let other = match to {
                    Some((address, find)) => Some(self.find(&address, find)?),
                    None => None,
                };
                let theirs = match other.as_ref().map(|other| other.role()) {
                    Some(Role::Connected(Link::Packets(theirs))) => Some(theirs),
                    Some(_) => return Err(ECONNREFUSED),
                    None => None,
                };
                if theirs.as_ref().is_some_and(|theirs| !theirs.hears(&packets)) {
                    return Err(EPERM);
                }
                self.send_message(&packets, from, wait, theirs.as_deref(), (parcel, signed))
            }
            Err(_) if self.family == Family::Inet && self.kind == Kind::Stream => Err(EPIPE),
            Err(error) => Err(error),
        }
    }

    fn send_message(
        &self,
        packets: &Packets,
        from: &mut From<'_>,
        wait: Wait,
        to: Option<&Packets>,
        (parcel, signed): (Option<Parcel>, Signature),
    ) -> Result<usize> {
        packets.send(from, wait, Letter { to, from: &self.as_seen(&self.name()), parcel, signed })
    }

    /// Sends a datagram over the network that leads back. Nobody waits, and what finds nobody is lost; who is
    /// connected to nobody learns of it at the next call. Linux: net/ipv4/udp.c `udp_sendmsg`, `udp_err`.
    fn send_datagram(&self, packets: &Packets, from: &mut From<'_>, to: Option<Address>) -> Result<usize> {
        let peer = self.state.lock().peer.clone();
        let (to, to_peer) = match to {
            Some(Address::Inet(_, 0)) => return Err(EINVAL),
            Some(to) => (self.as_seen(&to), *self.as_seen(&to) == *peer),
            None if *peer == Address::Unnamed => return Err(EDESTADDRREQ),
            None => (peer, true),
        };
        if let Some(error) = packets.take_error() {
            return Err(error);
        }
        let name = self.as_seen(&self.name());
        let found = match self.find(&to, |_| Err(ECONNREFUSED)) {
            Err(ECONNREFUSED) => None,
            found => Some(found?),
        };
        // Who is connected hears nobody else.
        let hears = |other: &Arc<Socket>| {
            let theirs = other.state.lock().peer.clone();
            *theirs == Address::Unnamed || *theirs == *name
        };
        let theirs = match found.filter(hears).map(|other| other.role()) {
            Some(Role::Connected(Link::Packets(theirs))) => Some(theirs),
            Some(_) | None => None,
        };
        let len = from.left();
        let signed = self.signature(None);
        let sent = match &theirs {
            Some(theirs) => {
                packets.send(from, Wait::Yes, Letter { to: Some(theirs), from: &name, parcel: None, signed })
            }
            None if len > packets::LARGEST => Err(EMSGSIZE),
            None => Err(ECONNREFUSED),
        };
        if sent == Err(ECONNREFUSED) {
            if to_peer {
                packets.fail_next(ECONNREFUSED);
            }
            return Ok(len);
        }
        sent
    }

    /// Who sends: `told` if he says so himself, else who he is if anybody wants to know.
    fn signature(&self, told: Option<Who>) -> Signature {
        let wanted = sender();
        let tells = self.credentials() == Credentials::Told;
        Signature { told: told.or(tells.then_some(wanted)), wanted }
    }

    /// Ends receiving, sending or both (`shutdown`). A Unix socket may not be connected yet. Differs from
    /// Linux: who it is connected to then learns that it never sends.
    ///
    /// # Errors
    /// `ENOTCONN` from the Internet's.
    pub fn shutdown(&self, direction: Direction) -> Result<()> {
        let role = {
            let mut state = self.state.lock();
            if matches!(state.role, Role::Fresh) && self.family == Family::Unix {
                let both = state.ended.is_some_and(|ended| ended != direction);
                state.ended = Some(if both { Direction::Both } else { direction });
                return Ok(());
            }
            state.role.clone()
        };
        match role {
            Role::Fresh => return Err(ENOTCONN),
            Role::Listening(backlog) if direction != Direction::Write => backlog.close(),
            Role::Listening(_) => {}
            Role::Connected(link) => {
                link.shutdown(direction);
                // Those of the Internet need not be connected, and are told.
                if self.kind == Kind::Datagram && self.family == Family::Inet {
                    self.peer()?;
                }
            }
        }
        Ok(())
    }

    /// Gives an option that was set.
    pub fn option(&self, level: u32, name: u32) -> Option<u32> {
        self.options.lock().get(&(level, name)).copied()
    }

    /// Sets an option.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set_option(&self, level: u32, name: u32, value: u32) -> Result<()> {
        if heap::is_short() {
            return Err(ENOMEM);
        }
        self.options.lock().insert((level, name), value);
        if (level, name) == (SOL_SOCKET, SO_PASSCRED)
            && let Ok(link) = self.link()
        {
            link.set_credentials(self.credentials());
        }
        Ok(())
    }
}

/// Who the running task is.
fn sender() -> Who {
    sched::current_task().thread().map_or((0, 0, 0), |thread| thread.credentials())
}

/// The level of options of sockets, and the one that asks who sends.
const SOL_SOCKET: u32 = 1;
const SO_PASSCRED: u32 = 16;

impl Drop for Socket {
    fn drop(&mut self) {
        let registered = self.state.lock().registered.take();
        if let Some(key) = registered {
            NAMES.take_out(&key);
        }
        if let Role::Listening(backlog) = self.role() {
            backlog.close();
        }
    }
}

/// Makes two connected Unix sockets.
///
/// # Errors
/// `ENFILE`.
pub fn pair(kind: Kind, owner: Who, flags: u32) -> Result<(Arc<OpenFile>, Arc<OpenFile>)> {
    let (link, other) = Socket::pair(Family::Unix, kind, (owner, owner))?;
    let one = Socket::with(Family::Unix, kind, owner, Role::Connected(link));
    Ok((one.open(flags), other.open(flags)))
}
