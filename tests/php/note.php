<?php
// A page of the site, served by a web server: writes a note, and on another connection reads it
// back. Says in one line which database server did what; answers 500 if anything is not as it must be.
declare(strict_types=1);

mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
header('Content-Type: text/plain');

function connect(): mysqli
{
    return new mysqli('127.0.0.1', 'app', 'app-secret', 'app', 3306);
}

try {
    $text = bin2hex(random_bytes(8));
    $db = connect();
    $db->query("INSERT INTO note (txt, written_by) VALUES ('$text', @@server_id)");
    $id = $db->insert_id;
    $db->close();

    $db = connect();
    $row = $db->query("SELECT txt, written_by, @@server_id FROM note WHERE id = $id")->fetch_row();
    if ($row === null || $row[0] !== $text) {
        throw new RuntimeException("note $id was not read back: " . json_encode($row));
    }
    echo "{$_SERVER['SERVER_NAME']}: note $id written by db$row[1], read from db$row[2]\n";
} catch (Throwable $e) {
    http_response_code(500);
    echo "{$_SERVER['SERVER_NAME']}: ", $e->getMessage(), "\n";
}
