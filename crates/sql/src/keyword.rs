//! Keywords, found without allocation and whatever their case.

/// How a keyword may stand in a statement that is known to be a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Reserved by both servers, and harmless in a read.
    Safe,
    /// Reserved by both servers; in a read only where the grammar gives it a harmless meaning.
    Danger,
    /// Not reserved everywhere: an identifier unless the place says otherwise.
    Free,
}

macro_rules! keywords {
    ($($variant:ident $text:literal $standing:ident,)*) => {
        /// A keyword, or `None` for any other word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[repr(u16)]
        pub enum Kw { #[default] None, $($variant,)* }
        const WORDS: &[(&str, Kw, Standing)] =
            &[$(($text, Kw::$variant, Standing::$standing),)*];
    };
}

keywords! {
    Add "ADD" Safe,
    All "ALL" Safe,
    And "AND" Safe,
    As "AS" Safe,
    Asc "ASC" Safe,
    Before "BEFORE" Safe,
    Between "BETWEEN" Safe,
    Bigint "BIGINT" Safe,
    Binary "BINARY" Safe,
    Blob "BLOB" Safe,
    Both "BOTH" Safe,
    By "BY" Safe,
    Cascade "CASCADE" Safe,
    Case "CASE" Safe,
    Change "CHANGE" Safe,
    Char "CHAR" Safe,
    Character "CHARACTER" Safe,
    Check "CHECK" Safe,
    Collate "COLLATE" Safe,
    Column "COLUMN" Safe,
    Condition "CONDITION" Safe,
    Constraint "CONSTRAINT" Safe,
    Continue "CONTINUE" Safe,
    Convert "CONVERT" Safe,
    Cross "CROSS" Safe,
    CurrentDate "CURRENT_DATE" Safe,
    CurrentTime "CURRENT_TIME" Safe,
    CurrentUser "CURRENT_USER" Safe,
    Cursor "CURSOR" Safe,
    Database "DATABASE" Safe,
    Dec "DEC" Safe,
    Decimal "DECIMAL" Safe,
    Default "DEFAULT" Safe,
    Desc "DESC" Safe,
    Deterministic "DETERMINISTIC" Safe,
    Distinct "DISTINCT" Safe,
    Distinctrow "DISTINCTROW" Safe,
    Div "DIV" Safe,
    Double "DOUBLE" Safe,
    Dual "DUAL" Safe,
    Each "EACH" Safe,
    Else "ELSE" Safe,
    Elseif "ELSEIF" Safe,
    Enclosed "ENCLOSED" Safe,
    Escaped "ESCAPED" Safe,
    Exists "EXISTS" Safe,
    False "FALSE" Safe,
    Float "FLOAT" Safe,
    For "FOR" Safe,
    Force "FORCE" Safe,
    Foreign "FOREIGN" Safe,
    From "FROM" Safe,
    Fulltext "FULLTEXT" Safe,
    Group "GROUP" Safe,
    Having "HAVING" Safe,
    HighPriority "HIGH_PRIORITY" Safe,
    If "IF" Safe,
    Ignore "IGNORE" Safe,
    In "IN" Safe,
    Index "INDEX" Safe,
    Inner "INNER" Safe,
    Inout "INOUT" Safe,
    Int "INT" Safe,
    Integer "INTEGER" Safe,
    Interval "INTERVAL" Safe,
    Is "IS" Safe,
    Join "JOIN" Safe,
    Key "KEY" Safe,
    Keys "KEYS" Safe,
    Leading "LEADING" Safe,
    Left "LEFT" Safe,
    Like "LIKE" Safe,
    Limit "LIMIT" Safe,
    Linear "LINEAR" Safe,
    Lines "LINES" Safe,
    Localtime "LOCALTIME" Safe,
    Localtimestamp "LOCALTIMESTAMP" Safe,
    Long "LONG" Safe,
    Longblob "LONGBLOB" Safe,
    Longtext "LONGTEXT" Safe,
    LowPriority "LOW_PRIORITY" Safe,
    Match "MATCH" Safe,
    Maxvalue "MAXVALUE" Safe,
    Mediumblob "MEDIUMBLOB" Safe,
    Mediumint "MEDIUMINT" Safe,
    Mediumtext "MEDIUMTEXT" Safe,
    Mod "MOD" Safe,
    Natural "NATURAL" Safe,
    Not "NOT" Safe,
    Null "NULL" Safe,
    Numeric "NUMERIC" Safe,
    On "ON" Safe,
    Option "OPTION" Safe,
    Optionally "OPTIONALLY" Safe,
    Or "OR" Safe,
    Order "ORDER" Safe,
    Out "OUT" Safe,
    Outer "OUTER" Safe,
    Partition "PARTITION" Safe,
    Precision "PRECISION" Safe,
    Primary "PRIMARY" Safe,
    Range "RANGE" Safe,
    Read "READ" Safe,
    Real "REAL" Safe,
    References "REFERENCES" Safe,
    Regexp "REGEXP" Safe,
    Require "REQUIRE" Safe,
    Restrict "RESTRICT" Safe,
    Right "RIGHT" Safe,
    Rlike "RLIKE" Safe,
    Schema "SCHEMA" Safe,
    Schemas "SCHEMAS" Safe,
    Databases "DATABASES" Safe,
    Select "SELECT" Safe,
    Sensitive "SENSITIVE" Safe,
    Separator "SEPARATOR" Safe,
    Smallint "SMALLINT" Safe,
    Spatial "SPATIAL" Safe,
    Sql "SQL" Safe,
    Ssl "SSL" Safe,
    Starting "STARTING" Safe,
    StraightJoin "STRAIGHT_JOIN" Safe,
    Table "TABLE" Safe,
    Terminated "TERMINATED" Safe,
    Then "THEN" Safe,
    Tinyblob "TINYBLOB" Safe,
    Tinyint "TINYINT" Safe,
    Tinytext "TINYTEXT" Safe,
    To "TO" Safe,
    Trailing "TRAILING" Safe,
    True "TRUE" Safe,
    Union "UNION" Safe,
    Unique "UNIQUE" Safe,
    Unsigned "UNSIGNED" Safe,
    Using "USING" Safe,
    UtcDate "UTC_DATE" Safe,
    UtcTime "UTC_TIME" Safe,
    UtcTimestamp "UTC_TIMESTAMP" Safe,
    Values "VALUES" Safe,
    Varbinary "VARBINARY" Safe,
    Varchar "VARCHAR" Safe,
    Varying "VARYING" Safe,
    When "WHEN" Safe,
    Where "WHERE" Safe,
    With "WITH" Safe,
    Xor "XOR" Safe,
    Zerofill "ZEROFILL" Safe,
    Alter "ALTER" Danger,
    Analyze "ANALYZE" Danger,
    Call "CALL" Danger,
    Create "CREATE" Danger,
    Declare "DECLARE" Danger,
    Delayed "DELAYED" Danger,
    Delete "DELETE" Danger,
    Describe "DESCRIBE" Danger,
    Drop "DROP" Danger,
    Exit "EXIT" Danger,
    Explain "EXPLAIN" Danger,
    Fetch "FETCH" Danger,
    Grant "GRANT" Danger,
    Infile "INFILE" Danger,
    Insert "INSERT" Danger,
    Into "INTO" Danger,
    Iterate "ITERATE" Danger,
    Kill "KILL" Danger,
    Leave "LEAVE" Danger,
    Load "LOAD" Danger,
    Lock "LOCK" Danger,
    Loop "LOOP" Danger,
    Optimize "OPTIMIZE" Danger,
    Outfile "OUTFILE" Danger,
    Procedure "PROCEDURE" Danger,
    Purge "PURGE" Danger,
    Release "RELEASE" Danger,
    Rename "RENAME" Danger,
    Repeat "REPEAT" Danger,
    Replace "REPLACE" Danger,
    Return "RETURN" Danger,
    Revoke "REVOKE" Danger,
    Set "SET" Danger,
    Show "SHOW" Danger,
    Trigger "TRIGGER" Danger,
    Undo "UNDO" Danger,
    Unlock "UNLOCK" Danger,
    Update "UPDATE" Danger,
    Usage "USAGE" Danger,
    Use "USE" Danger,
    While "WHILE" Danger,
    Write "WRITE" Danger,
    Account "ACCOUNT" Free,
    After "AFTER" Free,
    Against "AGAINST" Free,
    Aggregate "AGGREGATE" Free,
    Atomic "ATOMIC" Free,
    Authors "AUTHORS" Free,
    Autocommit "AUTOCOMMIT" Free,
    Backup "BACKUP" Free,
    Begin "BEGIN" Free,
    Binlog "BINLOG" Free,
    Body "BODY" Free,
    Cache "CACHE" Free,
    Chain "CHAIN" Free,
    Changed "CHANGED" Free,
    Charset "CHARSET" Free,
    Checksum "CHECKSUM" Free,
    Client "CLIENT" Free,
    Close "CLOSE" Free,
    Collation "COLLATION" Free,
    Columns "COLUMNS" Free,
    Commit "COMMIT" Free,
    Connection "CONNECTION" Free,
    Consistent "CONSISTENT" Free,
    Contributors "CONTRIBUTORS" Free,
    Current "CURRENT" Free,
    Currval "CURRVAL" Free,
    Cursors "CURSORS" Free,
    Deallocate "DEALLOCATE" Free,
    Definer "DEFINER" Free,
    Diagnostics "DIAGNOSTICS" Free,
    Do "DO" Free,
    Dumpfile "DUMPFILE" Free,
    End "END" Free,
    Engine "ENGINE" Free,
    Engines "ENGINES" Free,
    Errors "ERRORS" Free,
    Event "EVENT" Free,
    Events "EVENTS" Free,
    Except "EXCEPT" Free,
    Execute "EXECUTE" Free,
    Extended "EXTENDED" Free,
    Fields "FIELDS" Free,
    Flush "FLUSH" Free,
    Format "FORMAT" Free,
    Full "FULL" Free,
    Function "FUNCTION" Free,
    Get "GET" Free,
    Global "GLOBAL" Free,
    Grants "GRANTS" Free,
    Handler "HANDLER" Free,
    Hard "HARD" Free,
    Help "HELP" Free,
    Hosts "HOSTS" Free,
    Id "ID" Free,
    Immediate "IMMEDIATE" Free,
    Indexes "INDEXES" Free,
    Install "INSTALL" Free,
    Intersect "INTERSECT" Free,
    Isolation "ISOLATION" Free,
    Lateral "LATERAL" Free,
    Level "LEVEL" Free,
    Local "LOCAL" Free,
    Logs "LOGS" Free,
    Master "MASTER" Free,
    Mode "MODE" Free,
    Names "NAMES" Free,
    Next "NEXT" Free,
    Nextval "NEXTVAL" Free,
    Nulls "NULLS" Free,
    Of "OF" Free,
    Offset "OFFSET" Free,
    Only "ONLY" Free,
    Open "OPEN" Free,
    Over "OVER" Free,
    Package "PACKAGE" Free,
    Partitions "PARTITIONS" Free,
    Password "PASSWORD" Free,
    Persist "PERSIST" Free,
    PersistOnly "PERSIST_ONLY" Free,
    Plugins "PLUGINS" Free,
    Prepare "PREPARE" Free,
    Previous "PREVIOUS" Free,
    Privileges "PRIVILEGES" Free,
    Processlist "PROCESSLIST" Free,
    Profile "PROFILE" Free,
    Profiles "PROFILES" Free,
    Query "QUERY" Free,
    Recursive "RECURSIVE" Free,
    Repair "REPAIR" Free,
    Replica "REPLICA" Free,
    Replicas "REPLICAS" Free,
    Reset "RESET" Free,
    Resignal "RESIGNAL" Free,
    Resource "RESOURCE" Free,
    Restart "RESTART" Free,
    Role "ROLE" Free,
    Rollback "ROLLBACK" Free,
    Row "ROW" Free,
    Rows "ROWS" Free,
    Savepoint "SAVEPOINT" Free,
    Security "SECURITY" Free,
    Sequence "SEQUENCE" Free,
    Session "SESSION" Free,
    Share "SHARE" Free,
    Shutdown "SHUTDOWN" Free,
    Signal "SIGNAL" Free,
    Slave "SLAVE" Free,
    Snapshot "SNAPSHOT" Free,
    Soft "SOFT" Free,
    Start "START" Free,
    Statement "STATEMENT" Free,
    Status "STATUS" Free,
    Stop "STOP" Free,
    SystemTime "SYSTEM_TIME" Free,
    Tables "TABLES" Free,
    Temporary "TEMPORARY" Free,
    Transaction "TRANSACTION" Free,
    Triggers "TRIGGERS" Free,
    Truncate "TRUNCATE" Free,
    Uninstall "UNINSTALL" Free,
    User "USER" Free,
    Value "VALUE" Free,
    Variables "VARIABLES" Free,
    View "VIEW" Free,
    Warnings "WARNINGS" Free,
    Window "WINDOW" Free,
    Work "WORK" Free,
    Xa "XA" Free,
    Skip "SKIP" Free,
    Nowait "NOWAIT" Free,
    Locked "LOCKED" Free,
    Returning "RETURNING" Free,
    Offline "OFFLINE" Free,
    Online "ONLINE" Free,
    Import "IMPORT" Free,
    Clone "CLONE" Free,
    Xml "XML" Free,
    Data "DATA" Free,
    Server "SERVER" Free,
    Tablespace "TABLESPACE" Free,
    Stage "STAGE" Free,
    Instance "INSTANCE" Free,
    Oj "OJ" Free,
    Elsif "ELSIF" Free,
}

const SLOTS: usize = 2048;

/// At most 16 bytes with the case bit cleared. Not a one-to-one map over all bytes, but it is
/// over the bytes of identifiers other than letters with high bits, which no keyword has.
const fn pack_const(word: &[u8]) -> u128 {
    let mut v = 0u128;
    let mut i = 0;
    while i < word.len() {
        v |= ((word[i] & 0xdf) as u128) << (8 * i);
        i += 1;
    }
    v
}

const fn slot(v: u128) -> usize {
    let folded = (v as u64) ^ ((v >> 64) as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as usize
}

/// Every keyword, packed; the index plus one is the [`Kw`].
static KEYS: [u128; WORDS.len()] = {
    let mut keys = [0; WORDS.len()];
    let mut i = 0;
    while i < keys.len() {
        keys[i] = pack_const(WORDS[i].0.as_bytes());
        i += 1;
    }
    keys
};

static ALL: [Kw; WORDS.len()] = {
    let mut all = [Kw::None; WORDS.len()];
    let mut i = 0;
    while i < all.len() {
        all[i] = WORDS[i].1;
        i += 1;
    }
    all
};

static STANDINGS: [Standing; WORDS.len() + 1] = {
    let mut all = [Standing::Free; WORDS.len() + 1];
    let mut i = 0;
    while i < WORDS.len() {
        all[i + 1] = WORDS[i].2;
        i += 1;
    }
    all
};

/// Open addressing over [`KEYS`]; 0 is an empty slot. Kept apart from the keys so that the lookups
/// of a statement share few cache lines with the rest of the program.
static TABLE: [u16; SLOTS] = {
    let mut t = [0u16; SLOTS];
    let mut i = 0;
    while i < WORDS.len() {
        let mut at = slot(pack_const(WORDS[i].0.as_bytes()));
        while t[at] != 0 {
            at = (at + 1) % SLOTS;
        }
        t[at] = i as u16 + 1;
        i += 1;
    }
    t
};

/// The bytes of `word` as a number, at most 16 of them, case kept.
#[inline]
pub fn pack(word: &[u8]) -> u128 {
    // Two loads that may overlap are several times faster than a copy of unknown length.
    let n = word.len();
    let load8 = |at: usize| {
        let mut b = [0u8; 8];
        b.copy_from_slice(&word[at..at + 8]);
        u64::from_le_bytes(b)
    };
    let load4 = |at: usize| {
        let mut b = [0u8; 4];
        b.copy_from_slice(&word[at..at + 4]);
        u64::from(u32::from_le_bytes(b))
    };
    match n {
        0 => 0,
        1..=3 => {
            let (a, b, c) = (word[0], word[n / 2], word[n - 1]);
            let low = u128::from(a);
            let mid = u128::from(b) << (8 * (n / 2));
            let high = u128::from(c) << (8 * (n - 1));
            low | mid | high
        }
        4..=7 => u128::from(load4(0) | load4(n - 4) << (8 * (n - 4))),
        8 => u128::from(load8(0)),
        9..=16 => u128::from(load8(0)) | (u128::from(load8(n - 8)) << (8 * (n - 8))),
        _ => u128::from(load8(0)) | (u128::from(load8(8)) << 64),
    }
}

const FOLD: u128 = 0xdfdf_dfdf_dfdf_dfdf_dfdf_dfdf_dfdf_dfdf;

/// A word already packed, its case folded.
#[inline]
pub fn fold(packed: u128) -> u128 {
    packed & FOLD
}

/// The keyword that `packed` (of a word of `len` bytes) spells.
#[inline]
pub fn find_packed(packed: u128, len: usize) -> Kw {
    if !(2..=16).contains(&len) {
        return Kw::None;
    }
    let v = fold(packed);
    let mut at = slot(v);
    loop {
        match TABLE[at] {
            0 => return Kw::None,
            n if KEYS[n as usize - 1] == v => return ALL[n as usize - 1],
            _ => at = (at + 1) % SLOTS,
        }
    }
}

/// The keyword that `word` spells, if it is one.
#[must_use]
pub fn find(word: &[u8]) -> Option<Kw> {
    match find_packed(pack(word), word.len()) {
        Kw::None => None,
        kw => Some(kw),
    }
}

impl Kw {
    /// In capitals; empty for [`Kw::None`].
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Kw::None => "",
            kw => WORDS[kw as usize - 1].0,
        }
    }

    #[must_use]
    #[inline]
    pub fn standing(self) -> Standing {
        STANDINGS[self as usize]
    }

    /// Reserved by both servers: unquoted it can't be a name, so its case means nothing.
    #[must_use]
    pub fn reserved(self) -> bool {
        self.standing() != Standing::Free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_found_in_any_case_and_nothing_longer() {
        for (i, (text, kw, _)) in WORDS.iter().enumerate() {
            assert_eq!(find(text.as_bytes()), Some(*kw));
            assert_eq!(find(text.to_lowercase().as_bytes()), Some(*kw));
            assert_eq!(find(format!("{text}X").as_bytes()).filter(|k| k == kw), None);
            assert_eq!(*kw as usize, i + 1);
            assert!(text.len() <= 16, "{text} is longer than find_packed looks at");
        }
    }
}
