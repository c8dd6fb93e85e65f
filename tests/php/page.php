<?php
// What a page of an ordinary PHP site does to its database: with mysqli and with PDO, with prepares
// made by the server (native) and by the driver (emulated). Whatever is written is read back at
// once; the first thing that is not as it must be ends the page with exit code 1.
//
//   php page.php PORT [quiet]
declare(strict_types=1);

const HOST = '127.0.0.1', USER = 'app', PASSWORD = 'app-secret', DATABASE = 'app';
$port = (int) ($argv[1] ?? 3306);
$quiet = ($argv[2] ?? '') === 'quiet';
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);

function done(string $what): void
{
    global $quiet;
    if (!$quiet) {
        echo "  $what\n";
    }
}

function same(mixed $expected, mixed $got, string $what): void
{
    if ($expected !== $got) {
        fwrite(STDERR, "FAILED: $what: expected " . var_export($expected, true)
            . ', got ' . var_export($got, true) . "\n");
        exit(1);
    }
}

/** Every byte there is, NUL, quotes and backslashes among them. */
function blob(): string
{
    $all = '';
    for ($i = 0; $i < 256; $i++) {
        $all .= chr($i);
    }
    return str_repeat($all, 64) . "'\"\\\x00\x1a";
}

// Several pages at a time must not count each other's rows.
define('ME', (string) getmypid());

const EMOJI = "naïve ☃ 🐘🚂 \u{1F469}\u{200D}\u{1F4BB}";

function with_mysqli(int $port): void
{
    $db = new mysqli(HOST, USER, PASSWORD, DATABASE, $port);
    $db->set_charset('utf8mb4');
    $db->query('CREATE TABLE IF NOT EXISTS page (
        id INT AUTO_INCREMENT PRIMARY KEY, who VARCHAR(20) NOT NULL, txt VARCHAR(100), data MEDIUMBLOB
    ) ENGINE=InnoDB CHARACTER SET utf8mb4');

    // Text protocol.
    $db->query("INSERT INTO page (who, txt) VALUES ('mysqli', '" . $db->real_escape_string(EMOJI) . "')");
    $id = $db->insert_id;
    same($id, (int) $db->query('SELECT LAST_INSERT_ID()')->fetch_row()[0], 'mysqli LAST_INSERT_ID()');
    same(EMOJI, $db->query("SELECT txt FROM page WHERE id = $id")->fetch_row()[0], 'mysqli text read back');
    same($db->thread_id, (int) $db->query('SELECT CONNECTION_ID()')->fetch_row()[0], 'mysqli CONNECTION_ID()');

    // Prepared by the server, executed again and again, reads and writes in turn.
    $insert = $db->prepare('INSERT INTO page (who, txt, data) VALUES (?, ?, ?)');
    $select = $db->prepare('SELECT txt, data FROM page WHERE id = ?');
    for ($i = 0; $i < 20; $i++) {
        [$who, $txt, $data] = ['mysqli', EMOJI . $i, blob()];
        $insert->bind_param('sss', $who, $txt, $data);
        $insert->execute();
        $id = $insert->insert_id;
        $select->bind_param('i', $id);
        $select->execute();
        same([$txt, $data], $select->get_result()->fetch_row(), "mysqli prepared round $i");
    }

    // A blob in pieces.
    $null = null;
    $insert->bind_param('ssb', $who, $txt, $null);
    foreach (str_split(blob(), 5000) as $piece) {
        $insert->send_long_data(2, $piece);
    }
    $insert->execute();
    $id = $insert->insert_id;
    $select->execute();
    same(blob(), $select->get_result()->fetch_row()[1], 'mysqli long data');

    // Rows asked for one by one, and columns bound to variables.
    $select->execute();
    $select->bind_result($txt, $data);
    same(true, $select->fetch(), 'mysqli bind_result');
    same(blob(), $data, 'mysqli bound blob');
    $select->close();
    $insert->close();

    // Transactions.
    $count = fn () => (int) $db->query("SELECT COUNT(*) FROM page WHERE who = 'mysqli-tx' AND txt = '" . ME . "'")->fetch_row()[0];
    $before = $count();
    $db->begin_transaction();
    $db->query("INSERT INTO page (who, txt) VALUES ('mysqli-tx', '" . ME . "')");
    same($before + 1, $count(), 'mysqli sees its own open transaction');
    $db->rollback();
    same($before, $count(), 'mysqli rollback');
    $db->autocommit(false);
    $db->query("INSERT INTO page (who, txt) VALUES ('mysqli-tx', '" . ME . "')");
    $db->commit();
    $db->autocommit(true);
    same($before + 1, $count(), 'mysqli commit');
    $db->query("UPDATE page SET txt = 'changed' WHERE who = 'mysqli-tx' AND txt = '" . ME . "'");
    same(true, $db->affected_rows > 0, 'mysqli affected_rows');

    // Several statements at once, several results back.
    $db->multi_query("INSERT INTO page (who) VALUES ('mysqli-multi'); SELECT 1; SELECT 2, 3");
    $rows = [];
    do {
        if ($result = $db->store_result()) {
            $rows[] = $result->fetch_row();
        }
    } while ($db->more_results() && $db->next_result());
    same([['1'], ['2', '3']], $rows, 'mysqli multi_query');

    // An error is this statement's alone.
    try {
        $db->query('SELECT nothing FROM page');
        same('an error', 'none', 'mysqli error');
    } catch (mysqli_sql_exception $e) {
        same([1054, '42S22'], [$e->getCode(), $e->getSqlState()], 'mysqli error');
    }
    same(true, $db->query('SELECT 1')->num_rows === 1, 'mysqli after an error');
    done('mysqli: text, prepared, long data, transactions, multi-statements, errors');
}

function with_pdo(int $port, bool $emulated): void
{
    $name = $emulated ? 'PDO, emulated prepares' : 'PDO, native prepares';
    $db = new PDO('mysql:host=' . HOST . ";port=$port;dbname=" . DATABASE . ';charset=utf8mb4', USER, PASSWORD, [
        PDO::ATTR_EMULATE_PREPARES => $emulated,
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
        PDO::ATTR_STRINGIFY_FETCHES => false,
    ]);
    $insert = $db->prepare('INSERT INTO page (who, txt, data) VALUES (:who, :txt, :data)');
    $select = $db->prepare('SELECT txt, data FROM page WHERE id = ?');
    for ($i = 0; $i < 20; $i++) {
        $insert->bindValue('who', 'pdo');
        $insert->bindValue('txt', EMOJI . $i);
        $insert->bindValue('data', blob(), PDO::PARAM_LOB);
        $insert->execute();
        $id = (int) $db->lastInsertId();
        $select->execute([$id]);
        same([EMOJI . $i, blob()], $select->fetch(PDO::FETCH_NUM), "$name round $i");
        $select->closeCursor();
    }
    same($id, (int) $db->query('SELECT LAST_INSERT_ID()')->fetchColumn(), "$name LAST_INSERT_ID()");

    $count = fn () => (int) $db->query("SELECT COUNT(*) FROM page WHERE who = 'pdo-tx' AND txt = '" . ME . "'")->fetchColumn();
    $before = $count();
    $db->beginTransaction();
    $db->exec("INSERT INTO page (who, txt) VALUES ('pdo-tx', '" . ME . "')");
    same($before + 1, $count(), "$name sees its own open transaction");
    $db->rollBack();
    same($before, $count(), "$name rollback");
    $db->beginTransaction();
    $db->exec("INSERT INTO page (who, txt) VALUES ('pdo-tx', '" . ME . "')");
    $db->commit();
    same($before + 1, $count(), "$name commit");

    try {
        $db->query('SELECT * FROM there_is_no_such_table');
        same('an error', 'none', "$name error");
    } catch (PDOException $e) {
        same(['42S02', 1146], [$e->errorInfo[0], $e->errorInfo[1]], "$name error");
    }

    // Unbuffered: rows come as they are asked for.
    $db->setAttribute(PDO::MYSQL_ATTR_USE_BUFFERED_QUERY, false);
    $rows = 0;
    foreach ($db->query('SELECT id, txt FROM page') as $row) {
        $rows++;
    }
    same(true, $rows > 20, "$name unbuffered");
    done("$name: prepared in a loop, transactions, errors, unbuffered rows");
}

/** The visitor posts a form, is redirected, and another request on another connection shows it. */
function post_redirect_get(int $port): void
{
    for ($i = 0; $i < 20; $i++) {
        $post = new mysqli(HOST, USER, PASSWORD, DATABASE, $port);
        $post->query("INSERT INTO page (who, txt) VALUES ('prg', '$i')");
        $id = $post->insert_id;
        $post->close();
        $get = new mysqli(HOST, USER, PASSWORD, DATABASE, $port);
        same((string) $i, $get->query("SELECT txt FROM page WHERE id = $id")->fetch_row()[0] ?? null,
            "post, redirect, get: round $i");
        $get->close();
    }
    done('post, redirect, get: 20 of 20 found at once by the next connection');
}

/** Who answers what? */
function who_answers(int $port): void
{
    $db = new mysqli(HOST, USER, PASSWORD, DATABASE, $port);
    $reads = [];
    for ($i = 0; $i < 20; $i++) {
        $server = 'db' . $db->query('SELECT @@server_id')->fetch_row()[0];
        $reads[$server] = ($reads[$server] ?? 0) + 1;
    }
    $db->begin_transaction();
    $writer = 'db' . $db->query('SELECT @@server_id')->fetch_row()[0];
    $db->commit();
    ksort($reads);
    $counts = implode(', ', array_map(fn ($s, $n) => "$s $n times", array_keys($reads), $reads));
    done("SELECT @@server_id: outside a transaction $counts; inside one $writer");
}

with_mysqli($port);
with_pdo($port, emulated: true);
with_pdo($port, emulated: false);
post_redirect_get($port);
who_answers($port);
done('the page is done, nothing failed');
